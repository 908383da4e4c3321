// Swagger UI for /openapi.json; once authorized, for the document of the token.
"use strict";

let ui;
let shown; // the text of the last document

function token() {
  const authorized = ui?.authSelectors.authorized()?.toJS() ?? {};
  return authorized.oauth2?.token?.access_token ?? authorized.bearer?.value;
}

// Swagger UI has the token of a person as one that was pasted.
const signIn = new SignIn(document.getElementById("sign-in"), (token) => {
  const schema = ui.specSelectors.specJson().getIn(["components", "securitySchemes", "bearer"]);
  if (token) ui.authActions.authorize({ bearer: { name: "bearer", schema, value: token } });
  else if (ui.authSelectors.authorized()?.has("bearer")) ui.authActions.logout(["bearer"]);
});

// Reloads the document after each change of authorization, because it depends on the token.
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

// Returns the document as this page needs it. It offers checkboxes for parameters that are comma-separated lists, and sends them as one value.
function adapted(document) {
  const operations = Object.values(document.paths).flatMap((item) => Object.values(item));
  const shared = Object.values(document.components.parameters ?? {});
  for (const parameter of [...shared, ...operations.flatMap((operation) => operation.parameters ?? [])]) {
    if (!["select", "order", "on_conflict"].includes(parameter.name)) continue;
    parameter.schema = { type: "array", items: { type: "string", enum: parameter.schema.examples } };
    parameter.style = "form";
    parameter.explode = false;
  }
  // A value may be typed without an operator here, as `withOperators` adds `eq.` to it.
  for (const parameter of shared) {
    delete parameter.schema.pattern;
    delete parameter.schema.items?.pattern;
  }
  // Its tokens are no tokens of this API: the page exchanges them itself.
  const schemes = document.components.securitySchemes;
  signIn.offer(schemes.openIdConnect);
  delete schemes.openIdConnect;
  return document;
}

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
    // Otherwise the browser shows its own login window for a wrong secret, and the page is not told.
    request.credentials = "omit";
    if (request.loadSpec && token()) request.headers = { ...request.headers, Authorization: "Bearer " + token() };
    return request;
  },
  responseInterceptor: (response) => {
    if (new URL(response.url, location).pathname !== "/openapi.json") return response;
    if (response.ok) {
      shown = response.text = JSON.stringify(adapted(JSON.parse(response.text)));
    } else if (shown) {
      // Keep the page as it is, rather than empty, when the document of a token cannot be had.
      Object.assign(response, { ok: true, status: 200, text: shown });
    }
    return response;
  },
});
