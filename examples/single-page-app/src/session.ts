/** Who is signed in: the provider's ID token, exchanged for a token of one ESCO (RFC 8693). */

import { InMemoryWebStorage, UserManager, WebStorageStateStore, type User } from "oidc-client-ts";

declare const __FLOWS__: { url: string; issuer: string; clientId: string; app: string };
export const { url, issuer, clientId, app } = __FLOWS__;

const page = new URL("./", location.href).href;
const manager = new UserManager({
  authority: issuer,
  client_id: clientId,
  redirect_uri: page,
  post_logout_redirect_uri: page,
  scope: "openid profile email", // an invitation is for a verified address
  // Tokens stay in memory, where no other page and no later visitor finds them.
  userStore: new WebStorageStateStore({ store: new InMemoryWebStorage() }),
  stateStore: new WebStorageStateStore({ store: sessionStorage }),
  // The ID token is renewed when it is needed: see `Session.choose`.
  automaticSilentRenew: false,
});

const INVITATION = "flows-invitation"; // of the link that somebody was given, until it is accepted

/** Return whether there is an invitation; one in the link is kept for this tab and leaves the address. */
export function isInvited(): boolean {
  const code = new URLSearchParams(location.hash.slice(1)).get("invitation");
  if (code) {
    sessionStorage.setItem(INVITATION, code);
    history.replaceState(null, "", page);
  }
  return sessionStorage.getItem(INVITATION) !== null;
}

export class Session {
  /** Codes of the person's ESCOs, if there are several to choose from. */
  escos: string[] = [];
  esco?: string;
  /** True for a resident, who sees its own home alone. */
  resident = false;
  #token?: string;
  #endsAt = 0;

  private constructor(public user: User) {}

  /** Return the session of a person who comes back from the provider, or null. */
  static async resume(): Promise<Session | null> {
    if (!new URLSearchParams(location.search).has("state")) return null;
    try {
      const user = await manager.signinCallback();
      // In the hidden frame of `signinSilent` the answer is that of the page around it.
      return user ? new Session(user) : null;
    } finally {
      history.replaceState(null, "", page);
    }
  }

  static signIn(): Promise<void> {
    return manager.signinRedirect();
  }

  /** The token of the chosen ESCO; it is exchanged again a minute before its end. */
  async token(): Promise<string> {
    if (!this.#token || Date.now() > this.#endsAt - 60_000) await this.choose(this.esco);
    return this.#token ?? fail("no ESCO is chosen");
  }

  /** Get a token of an ESCO; return false if the person must choose one of `escos` first. */
  async choose(esco?: string): Promise<boolean> {
    const invitation = sessionStorage.getItem(INVITATION);
    const { ok, body } = await post("/auth/token", {
      grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
      client_id: app,
      subject_token: await this.#idToken(),
      subject_token_type: "urn:ietf:params:oauth:token-type:id_token",
      ...(esco && { esco }),
      ...(invitation && { invitation }),
    });
    // One that is refused would be refused again; the person may be a member without it.
    if (ok || body.error === "invalid_request") sessionStorage.removeItem(INVITATION);
    if (!ok && body.escos) {
      this.escos = body.escos;
      return false;
    }
    if (!ok) fail(body.error_description);
    await this.#revoke();
    this.#token = body.access_token as string;
    this.#endsAt = Date.now() + body.expires_in * 1000;
    const claims = JSON.parse(atob(this.#token.split(".")[1]!.replace(/-/g, "+").replace(/_/g, "/")));
    this.esco = claims.esco_code;
    this.resident = claims.role === "resident";
    return true;
  }

  /** The person's ID token, renewed at the provider, which asks nothing, if it is about to end. */
  async #idToken(): Promise<string> {
    if (Date.now() > this.user.profile.exp * 1000 - 60_000)
      this.user = (await manager.signinSilent()) ?? fail("Sign in again.");
    return this.user.id_token ?? fail("no ID token");
  }

  /** End the token and the session at the provider, which leads back here. */
  async signOut(): Promise<void> {
    await this.#revoke();
    await manager.signoutRedirect({ id_token_hint: this.user.id_token });
  }

  async #revoke(): Promise<void> {
    if (this.#token) await post("/auth/revoke", { client_id: app, token: this.#token });
    this.#token = undefined;
  }
}

async function post(path: string, fields: Record<string, string>) {
  const answer = await fetch(url + path, { method: "POST", body: new URLSearchParams(fields) });
  const text = await answer.text();
  return { ok: answer.ok, body: text ? JSON.parse(text) : {} };
}

function fail(reason: string): never {
  throw new Error(reason);
}
