// The demo's OpenID provider: the accounts of DEMO_ACCOUNTS, which have no passwords, on loopback alone.
import { createServer } from "node:http";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { interactionPolicy, Provider } from "oidc-provider";

const { DEMO_ISSUER, DEMO_ACCOUNTS, DEMO_CLIENT, DEMO_SERVER_CLIENT, DEMO_SERVER_SECRET } = process.env;
const accounts = new Map(JSON.parse(DEMO_ACCOUNTS).map((account) => [account.sub, account]));
const { hostname, port } = new URL(DEMO_ISSUER);
const LOOPBACK = new Set(["127.0.0.1", "localhost", "[::1]"]);

// Keys of this start alone: whoever reads this file cannot sign tokens that the demo takes.
function signingKey(alg, type, options) {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: "jwk" }), kid: randomBytes(8).toString("hex"), use: "sig", alg };
}

const redirects = (...paths) =>
  ["127.0.0.1", "localhost"].flatMap((host) => paths.map((path) => `http://${host}${path}`));

// These are the demo's own pages: nobody is asked whether they may know the account.
const policy = interactionPolicy.base();
policy.get("consent").checks.remove("native_client_prompt");

// "native" clients may be on any port of the loopback interface (RFC 8252 §7.3), as pages are here.
const client = { application_type: "native", grant_types: ["authorization_code"], response_types: ["code"] };
const clients = [
  {
    ...client,
    client_id: DEMO_CLIENT,
    client_name: "the demo's pages",
    token_endpoint_auth_method: "none",
    redirect_uris: redirects("/", "/docs"),
    post_logout_redirect_uris: redirects("/", "/docs"),
  },
  {
    ...client,
    client_id: DEMO_SERVER_CLIENT,
    client_name: "the demo's server",
    client_secret: DEMO_SERVER_SECRET,
    redirect_uris: redirects("/callback"),
    post_logout_redirect_uris: redirects("/"),
  },
];

const escape = (text) =>
  String(text).replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

function page(title, body) {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>
body { margin: 12vh auto; max-width: 22rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1c2b2b; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } p { margin: 0 0 1.25rem; color: #4d6060; }
button { display: block; width: 100%; margin: 0 0 .6rem; padding: .7rem 1rem; text-align: left; font: inherit;
  border: 1px solid #b9cccc; border-radius: 8px; background: #fff; cursor: pointer; }
button:hover, button:focus-visible { border-color: #0b6e6e; background: #eef7f6; outline: none; }
button b { display: block; color: #0b6e6e; }
</style><h1>${escape(title)}</h1>${body}`;
}

const provider = new Provider(DEMO_ISSUER, {
  clients,
  clientBasedCORS: (_, origin) => LOOPBACK.has(new URL(origin).hostname),
  claims: { openid: ["sub"], profile: ["name"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false, // the gateway reads the ID token alone
  cookies: { keys: [randomBytes(32).toString("hex")] },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: {
      logoutSource: (ctx, form) => {
        ctx.body = page("Sign out?", `${form}<p>Your session at the demo's provider ends.</p>
<button form="op.logoutForm" name="logout" value="yes"><b>Sign out</b></button>`);
      },
      postLogoutSuccessSource: (ctx) => {
        ctx.body = page("Signed out", "<p>You may close this page.</p>");
      },
    },
  },
  findAccount: (_, id) =>
    accounts.has(id) ? { accountId: id, claims: () => ({ ...accounts.get(id), email_verified: true }) } : undefined,
  interactions: { policy, url: (_, { uid }) => `/sign-in/${uid}` },
  jwks: { keys: [signingKey("RS256", "rsa", { modulusLength: 2048 })] },
  loadExistingGrant: async (ctx) => {
    const { client, session, provider: here } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    if (known) return here.Grant.find(known);
    const grant = new here.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid profile email");
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
  renderError: (ctx, out) => {
    ctx.type = "html";
    ctx.body = page("Sign-in failed", `<p>${escape(out.error)}: ${escape(out.error_description ?? "")}</p>`);
  },
  scopes: ["openid", "profile", "email"],
  ttl: { AccessToken: 3600, IdToken: 3600, Interaction: 3600, Session: 14 * 86400, Grant: 14 * 86400 },
});

async function formOf(request) {
  let text = "";
  for await (const piece of request) if ((text += piece).length > 10_000) break;
  return new URLSearchParams(text);
}

async function signIn(request, response) {
  const { prompt } = await provider.interactionDetails(request, response);
  if (request.method === "POST") {
    const account = (await formOf(request)).get("account");
    const result = accounts.has(account)
      ? { login: { accountId: account, remember: false } }
      : { error: "access_denied", error_description: `There is no account ${account}.` };
    await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
    return;
  }
  if (prompt.name !== "login") throw new Error(`unexpected prompt ${prompt.name}`);
  const buttons = [...accounts.values()].map(
    ({ sub, name, about }) =>
      `<button name="account" value="${escape(sub)}"><b>${escape(name)}</b>${escape(about)}</button>`,
  );
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  response.setHeader("Cache-Control", "no-store");
  response.end(
    page("Sign in to the demo", `<p>Choose a person; there are no passwords.</p><form method="post">${buttons.join("")}</form>`),
  );
}

const answer = provider.callback();
createServer((request, response) => {
  response.setHeader("Referrer-Policy", "no-referrer");
  response.setHeader("X-Frame-Options", "DENY");
  if (!request.url.startsWith("/sign-in/")) {
    answer(request, response);
    return;
  }
  signIn(request, response).catch((error) => {
    response.statusCode = 400;
    response.setHeader("Content-Type", "text/html; charset=utf-8");
    response.end(page("Sign-in failed", `<p>${escape(error.message)}: go back and begin again.</p>`));
  });
}).listen(Number(port), hostname, () => console.log(`listening on ${DEMO_ISSUER}`));
