/** What the page reads: tables by supabase-js, energy and balances from /v1. */

import { createClient } from "@supabase/supabase-js";
import { app, url, type Session } from "./session";

export interface Circuit {
  id: string;
  name: string | null;
  type: string | null;
}

/** One array for each field; `interval_start` has the place of each value of the groups. */
export interface Energy {
  intervals: { interval_start: string[] };
  groups: {
    circuit_type: string | null;
    import_kwh: (number | null)[];
    export_kwh: (number | null)[];
  }[];
}

export interface Latest {
  meter: string;
  meter_name: string | null;
  balance: number | null;
  balance_updated_at: string | null;
}

export class Api {
  #session: Session;
  #tables;

  constructor(session: Session) {
    this.#session = session;
    // The key is that of Supabase's own gateway; here the token alone counts.
    this.#tables = createClient(url, app, { accessToken: () => session.token() });
  }

  async circuits(): Promise<Circuit[]> {
    const { data, error } = await this.#tables.from("circuits").select("id,name,type").order("name");
    if (error) throw new Error(error.message);
    return data;
  }

  /** Return the days of a month, by kind of circuit. */
  energy(month: Date): Promise<Energy> {
    const start = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth(), 1));
    const end = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth() + 1, 1));
    return this.#read("/v1/energy", {
      period_from: start.toISOString().slice(0, 10),
      period_to: end.toISOString().slice(0, 10),
      granularity: "P1D",
      group_by: "circuit_type",
      format: "columns",
    });
  }

  async balances(): Promise<Latest[]> {
    const { rows } = await this.#read<{ rows: Latest[] }>("/v1/latest", {});
    return rows.filter((row) => row.balance !== null);
  }

  async #read<T>(path: string, query: Record<string, string>): Promise<T> {
    const headers = { Authorization: `Bearer ${await this.#session.token()}` };
    const answer = await fetch(`${url}${path}?${new URLSearchParams(query)}`, { headers });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.detail ?? body.title);
    return body;
  }
}
