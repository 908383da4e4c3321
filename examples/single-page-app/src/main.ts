/** The page: sign in, choose an ESCO, see balances, a month of energy, and circuits. */

import "./style.css";
import { Api, type Circuit, type Latest } from "./api";
import { chart } from "./chart";
import { h } from "./dom";
import { isInvited, Session } from "./session";

const main = document.getElementById("main")!;
const person = document.getElementById("person")!;
const money = new Intl.NumberFormat("en-GB", { style: "currency", currency: "GBP" });
const monthName = new Intl.DateTimeFormat("en-GB", { month: "long", year: "numeric", timeZone: "UTC" });

async function start(): Promise<void> {
  const session = await Session.resume();
  if (session) await enter(session);
  else showWelcome(isInvited() ? "You are invited: sign in to accept." : "");
}

function showWelcome(message = ""): void {
  person.replaceChildren();
  main.replaceChildren(
    h("section", { className: "welcome" },
      h("h1", {}, "Your energy, day by day"),
      h("p", {}, "See what you use, what your roof gives, and what is left on your meter."),
      h("button", { className: "primary", onclick: guarded(() => Session.signIn()) }, "Sign in"),
      h("output", {}, message)),
  );
}

async function enter(session: Session, esco?: string): Promise<void> {
  const chosen = await session.choose(esco);
  const parts: Node[] = [];
  if (session.escos.length) {
    const options = session.escos.map((code) => h("option", { value: code, selected: code === session.esco }, code));
    if (!chosen) options.unshift(h("option", { value: "", selected: true }, "Choose an ESCO"));
    const select = h("select", { ariaLabel: "ESCO" }, ...options);
    select.onchange = guarded(() => enter(session, select.value));
    parts.push(select);
  } else parts.push(h("b", {}, session.esco ?? ""));
  parts.push(
    h("span", {}, session.user.profile.name ?? ""),
    h("button", { onclick: guarded(() => session.signOut()) }, "Sign out"),
  );
  person.replaceChildren(...parts);
  if (chosen) await showEnergy(new Api(session), session.resident);
  else main.replaceChildren(h("section", { className: "welcome" }, h("p", {}, "You belong to several communities: choose one above.")));
}

/** Show what the person may read: a resident its own home, one of the staff the whole ESCO. */
async function showEnergy(api: Api, resident: boolean): Promise<void> {
  const place = h("div", { className: "chart" });
  const title = h("h2");
  let month = new Date();
  const move = async (months: number) => {
    month = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth() + months, 1));
    title.textContent = monthName.format(month);
    const energy = await api.energy(month);
    place.replaceChildren(energy.groups.length ? chart(energy) : h("p", {}, "Nothing was measured in this month."));
  };
  const [circuits, balances] = await Promise.all([api.circuits(), api.balances(), move(0)]);
  main.replaceChildren(
    h("section", {},
      h("div", { className: "title" }, title,
        h("button", { ariaLabel: "Month before", onclick: guarded(() => move(-1)) }, "‹"),
        h("button", { ariaLabel: "Month after", onclick: guarded(() => move(1)) }, "›")),
      place),
    h("section", {}, h("h2", {}, resident ? "Your balance" : "Balances"), balanceCards(balances)),
    h("section", {}, h("h2", {}, resident ? "Your circuits" : "Circuits"), circuitTable(circuits)),
  );
}

function balanceCards(rows: Latest[]): HTMLElement {
  const cards = rows.map((row) =>
    h("div", { className: row.balance! < 5 ? "card low" : "card" },
      h("span", {}, row.meter_name ?? row.meter),
      h("strong", {}, money.format(row.balance!)),
      h("small", {}, row.meter)),
  );
  return h("div", { className: "cards" }, ...(cards.length ? cards : ["No meter has a balance."]));
}

function circuitTable(rows: Circuit[]): HTMLElement {
  const head = h("tr", {}, h("th", {}, "Circuit"), h("th", {}, "Kind"));
  const body = rows.map((row) => h("tr", {}, h("td", {}, row.name ?? row.id), h("td", {}, row.type ?? "")));
  return h("table", {}, h("thead", {}, head), h("tbody", {}, ...body));
}

/** Return a handler that shows what went wrong. */
function guarded(action: () => Promise<void>): () => void {
  return () => void action().catch((error: Error) => showWelcome(error.message));
}

guarded(start)();
