// A page without tokens: its cookie is sent along, and what changes something carries the CSRF token.
"use strict";

const main = document.getElementById("main");
const money = new Intl.NumberFormat("en-GB", { style: "currency", currency: "GBP" });

function made(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

async function signOut(csrf) {
  await fetch("/logout", { method: "POST", headers: { "X-CSRF-Token": csrf } });
  location.reload();
}

function showBalances(rows) {
  const body = rows.map(({ meter, meter_name, balance }) =>
    made("tr", {},
      made("td", { textContent: meter_name ?? meter }),
      made("td", { textContent: meter }),
      made("td", { textContent: money.format(balance), className: balance < 5 ? "low" : "" })));
  const head = made("tr", {}, ...["Home", "Meter", "Balance"].map((word) => made("th", { textContent: word })));
  main.replaceChildren(made("table", {}, head, ...body));
}

function showWelcome() {
  main.className = "welcome";
  main.replaceChildren(made("p", { textContent: "What is left on each meter." }),
    made("a", { href: "/login", className: "primary", textContent: "Sign in" }));
}

async function start() {
  const answer = await fetch("/me");
  if (answer.status === 401) return showWelcome();
  const { name, csrf } = await answer.json();
  document.getElementById("person").replaceChildren(
    made("span", { textContent: name }),
    made("button", { textContent: "Sign out", onclick: () => signOut(csrf) }));
  const latest = await fetch("/api/v1/latest");
  const body = await latest.json();
  if (latest.ok) showBalances(body.rows.filter((row) => row.balance !== null));
  else if (latest.status === 401) showWelcome();
  else main.replaceChildren(made("p", { textContent: body.detail }));
}

start();
