/** A client of the Flows API: a token that is renewed in time, pages, and errors by name. */

import createClient, { type Client, type Middleware } from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type { components, paths };
export type Schemas = components["schemas"];
export type EnergyQuery = NonNullable<paths["/v1/energy"]["get"]["parameters"]["query"]>;

/** Rows of a table as JSON; its CSV and other forms are texts. */
export type Rows<Path extends keyof paths> = paths[Path] extends {
    get: { responses: { 200: { content: { "application/json": infer Found } } } };
}
    ? Found
    : never;

/** Client credentials (RFC 6749, 4.4); `scope` narrows what the token may do. */
export interface Credentials {
    clientId: string;
    clientSecret: string;
    scope?: string;
}

/** A refusal: `code` is stable, the message says what to change, `requestId` is for support. */
export class FlowsError extends Error {
    readonly status: number;
    readonly code: string | undefined;
    readonly requestId: string | null;

    constructor(answer: Response, body: Record<string, unknown>) {
        const text = body["detail"] ?? body["message"] ?? body["error_description"] ?? body["title"];
        super(`${answer.status}: ${String(text ?? answer.statusText)}`);
        this.name = "FlowsError";
        this.status = answer.status;
        const code = body["code"] ?? body["error"];
        this.code = code === undefined ? undefined : String(code);
        this.requestId = answer.headers.get("x-request-id");
    }

    static async of(answer: Response): Promise<FlowsError> {
        const body: unknown = await answer.clone().json().catch(() => ({}));
        return new FlowsError(answer, (body ?? {}) as Record<string, unknown>);
    }
}

/** A token is renewed before it expires, as a request takes time and clocks differ. */
const EARLY_SECONDS = 60;

/** Returns a function that gives the token of the moment; concurrent calls share one request. */
export function tokens(url: string, credentials: Credentials): (fresh?: boolean) => Promise<string> {
    let current: Promise<{ token: string; until: number }> | undefined;

    async function ask(): Promise<{ token: string; until: number }> {
        const form = new URLSearchParams({
            grant_type: "client_credentials",
            client_id: credentials.clientId,
            client_secret: credentials.clientSecret,
            ...(credentials.scope === undefined ? {} : { scope: credentials.scope }),
        });
        const answer = await fetch(new URL("/auth/token", url), { method: "POST", body: form });
        if (!answer.ok) throw await FlowsError.of(answer);
        const found = (await answer.json()) as Schemas["Token"];
        const until = performance.now() + (found.expires_in - EARLY_SECONDS) * 1000;
        return { token: found.access_token, until };
    }

    return async (fresh = false) => {
        const known = await current?.catch(() => undefined);
        if (fresh || known === undefined || performance.now() >= known.until) current = ask();
        return (await current!).token;
    };
}

/** Returns a client whose methods and answers have the types of the API's document. */
export function flows(url: string, credentials: Credentials): Client<paths> {
    const token = tokens(url, credentials);
    const signedIn: Middleware = {
        async onRequest({ request }) {
            request.headers.set("Authorization", `Bearer ${await token()}`);
        },
        async onResponse({ request, response }) {
            // A key may be withdrawn, or a token revoked, before its time.
            if (response.status === 401 && request.body === null) {
                const again = new Request(request);
                again.headers.set("Authorization", `Bearer ${await token(true)}`);
                response = await fetch(again);
            }
            if (!response.ok) throw await FlowsError.of(response);
            return response;
        },
    };
    const client = createClient<paths>({ baseUrl: url });
    client.use(signedIn);
    return client;
}

/** Yields the ESCO's energy by interval and group, page after page. */
export async function* energy(
    client: Client<paths>,
    query: EnergyQuery,
): AsyncGenerator<Schemas["EnergyRow"]> {
    let cursor: string | undefined;
    do {
        const page = cursor === undefined ? query : { ...query, cursor };
        const { data } = await client.GET("/v1/energy", { params: { query: page } });
        if (data === undefined || typeof data !== "object") return;
        const found = data as Schemas["Energy"];
        yield* found.rows;
        cursor = found.next ?? undefined;
    } while (cursor !== undefined);
}
