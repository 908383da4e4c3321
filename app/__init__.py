"""The Flows gateway: the API that energy communities run on."""
