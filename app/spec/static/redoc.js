// ReDoc over /openapi.json: the public surface, to read.
"use strict";

Redoc.init(
  "/openapi.json",
  {
    scrollYOffset: "header.flows",
    hideDownloadButton: true,
    pathInMiddlePanel: true,
    theme: { colors: { primary: { main: "#0b6e6e" } }, typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } },
  },
  document.getElementById("redoc"),
);
