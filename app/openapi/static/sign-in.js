// Sign-in on /docs at the provider of the document's `openIdConnect`: authorization code with PKCE
// (RFC 7636), then token exchange for an ESCO (RFC 8693). All tokens stay in this page's memory.
"use strict";

const BEGUN = "flows-sign-in"; // what a sign-in needs when the browser returns, in this tab alone
const SIGNED_OUT = "flows-signed-out"; // asks the provider not to sign the same person in again
const REDIRECT_URI = location.origin + "/docs";
const RENEW_SECONDS = 60; // before a token ends

const base64url = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
const randomText = () => base64url(crypto.getRandomValues(new Uint8Array(32)));

/** Return the provider's answer in the URL, which is removed from it at once, with its state. */
function takeReturned() {
  const query = new URLSearchParams(location.search);
  if (!query.has("state")) return null;
  const begun = JSON.parse(sessionStorage.getItem(BEGUN) ?? "null");
  sessionStorage.removeItem(BEGUN);
  history.replaceState(null, "", "/docs" + (begun?.hash ?? ""));
  return { query, begun };
}

async function post(url, fields) {
  const answer = await fetch(url, { method: "POST", body: new URLSearchParams(fields), credentials: "omit" });
  const body = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {};
  return { ok: answer.ok, body };
}

const claimsOf = (token) =>
  JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0))));

class SignIn {
  /** `place` is the element to fill, `use` takes the token of an ESCO, or null to take it away. */
  constructor(place, use) {
    Object.assign(this, { place, use, returned: takeReturned(), escos: [] });
  }

  /** Offer sign-in with the document's security scheme, once, and finish one that was begun. */
  offer(scheme) {
    if (this.scheme || !scheme) return;
    this.scheme = scheme;
    this.show();
    if (this.returned) this.attempt(() => this.finish(this.returned));
  }

  async attempt(action) {
    try {
      await action();
    } catch (error) {
      this.forget();
      this.show(error instanceof TypeError ? "The provider cannot be reached." : error.message);
    }
  }

  async discover() {
    const url = this.scheme.openIdConnectUrl;
    const answer = await fetch(url, { credentials: "omit" });
    if (!answer.ok) throw new Error("The provider cannot be reached.");
    const found = await answer.json();
    if (found.issuer.replace(/\/$/, "") + "/.well-known/openid-configuration" !== url)
      throw new Error("The provider says that it is another.");
    return found;
  }

  async begin() {
    if (!crypto.subtle) throw new Error("Signing in needs https.");
    const { authorization_endpoint } = await this.discover();
    const begun = { verifier: randomText(), state: randomText(), nonce: randomText(), hash: location.hash };
    const challenge = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(begun.verifier));
    sessionStorage.setItem(BEGUN, JSON.stringify(begun));
    const url = new URL(authorization_endpoint);
    const asked = {
      response_type: "code",
      client_id: this.scheme["x-flows-client-id"],
      redirect_uri: REDIRECT_URI,
      scope: "openid",
      state: begun.state,
      nonce: begun.nonce,
      code_challenge: base64url(challenge),
      code_challenge_method: "S256",
      ...(sessionStorage.getItem(SIGNED_OUT) && { prompt: "login" }),
    };
    for (const [name, value] of Object.entries(asked)) url.searchParams.set(name, value);
    location.assign(url);
  }

  async finish({ query, begun }) {
    if (!begun || query.get("state") !== begun.state) throw new Error("This sign-in was not begun here.");
    if (query.has("error")) throw new Error(query.get("error_description") ?? query.get("error"));
    const { issuer, token_endpoint } = await this.discover();
    // Another provider's answer (RFC 9207).
    if (query.has("iss") && query.get("iss") !== issuer) throw new Error("Another provider answered.");
    const { ok, body } = await post(token_endpoint, {
      grant_type: "authorization_code",
      code: query.get("code"),
      redirect_uri: REDIRECT_URI,
      client_id: this.scheme["x-flows-client-id"],
      code_verifier: begun.verifier,
    });
    if (!ok) throw new Error(body.error_description ?? "The provider refuses the sign-in.");
    if (claimsOf(body.id_token).nonce !== begun.nonce) throw new Error("This sign-in was not begun here.");
    sessionStorage.removeItem(SIGNED_OUT);
    this.idToken = body.id_token;
    await this.exchange();
  }

  /** Get a token of the ESCO; if the person is a member of several, have one chosen. */
  async exchange(esco) {
    const { ok, body } = await post("/auth/token", {
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      client_id: this.scheme["x-flows-app"],
      subject_token: this.idToken,
      subject_token_type: "urn:ietf:params:oauth:token-type:id_token",
      ...(esco && { esco }),
    });
    if (!ok && body.escos) {
      this.escos = body.escos;
      this.show();
      return;
    }
    if (!ok) throw new Error(body.error_description ?? "The gateway refuses the sign-in.");
    const replaced = this.token;
    this.token = body.access_token;
    this.esco = claimsOf(this.token).esco_code;
    clearTimeout(this.timer);
    const seconds = Math.max(body.expires_in - RENEW_SECONDS, body.expires_in / 2);
    this.timer = setTimeout(() => this.attempt(() => this.exchange(this.esco)), seconds * 1000);
    this.use(this.token);
    this.show();
    await this.revoke(replaced);
  }

  /** Take back a token, which another has replaced or nobody needs any more: the page must use it no longer. */
  async revoke(token) {
    if (token) await post("/auth/revoke", { client_id: this.scheme["x-flows-app"], token });
  }

  forget() {
    clearTimeout(this.timer);
    Object.assign(this, { idToken: undefined, token: undefined, esco: undefined, escos: [] });
    this.use(null);
  }

  async signOut() {
    sessionStorage.setItem(SIGNED_OUT, "yes");
    const last = this.token;
    this.forget();
    this.show();
    await this.revoke(last);
  }

  show(message = "") {
    const parts = message ? [made("output", { textContent: message })] : [];
    if (this.escos.length) {
      const choice = made("select", { ariaLabel: "ESCO" });
      if (!this.esco) choice.append(made("option", { textContent: "Choose an ESCO", value: "" }));
      for (const code of this.escos) choice.append(made("option", { textContent: code, value: code }));
      choice.value = this.esco ?? "";
      choice.onchange = () => choice.value && this.attempt(() => this.exchange(choice.value));
      parts.push(choice);
    } else if (this.esco) parts.push(made("output", { textContent: this.esco }));
    const action = this.idToken ? ["Sign out", () => this.signOut()] : ["Sign in", () => this.begin()];
    parts.push(made("button", { type: "button", textContent: action[0], onclick: () => this.attempt(action[1]) }));
    this.place.replaceChildren(...parts);
  }
}

function made(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
