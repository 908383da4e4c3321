// Swagger UI over /openapi.json; once authorized, over what the token may do.
"use strict";

let ui;

function token() {
  const authorized = ui?.authSelectors.authorized()?.toJS() ?? {};
  return authorized.oauth2?.token?.access_token ?? authorized.bearer?.value;
}

// Follows each change of who is authorized: the document is the token's.
const DocumentOfTheToken = () => ({
  statePlugins: {
    auth: {
      wrapActions: Object.fromEntries(
        ["authorizeOauth2", "authorize", "logout"].map((name) => [
          name,
          (original) => (...given) => {
            const result = original(...given);
            ui.specActions.download("/openapi.json");
            return result;
          },
        ]),
      ),
    },
  },
});

ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  displayRequestDuration: true,
  filter: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
  syntaxHighlight: { activated: true, theme: "agate" },
  plugins: [DocumentOfTheToken],
  requestInterceptor: (request) => {
    request.url = withOperators(request.url);
    if (request.loadSpec && token()) request.headers = { ...request.headers, Authorization: "Bearer " + token() };
    return request;
  },
});
