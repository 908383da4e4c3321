// Adds the operator that PostgREST expects to filters typed by users: a bare value means `eq.`.
"use strict";

const REST = "/rest/v1/";
const OPERATOR =
  /^(not\.)?(eq|neq|gte?|lte?|like|ilike|i?match|in|is|isdistinct|cs|cd|ov|s[lr]|nx[lr]|adj|(pl|ph|w)?fts)(\((any|all|[a-z_]+)\))?\./;
const NO_FILTERS = new Set(["select", "order", "limit", "offset", "columns", "on_conflict", "and", "or", "not.and", "not.or"]);

/** Return the URL on this page's origin, with `eq.` before every filter without an operator. */
function withOperators(address) {
  const url = new URL(address, location.origin);
  const here = new URL(url.pathname + url.search, location.origin);
  if (!here.pathname.startsWith(REST) || here.pathname.startsWith(REST + "rpc/")) return here.href;
  const query = new URLSearchParams();
  for (const [name, value] of here.searchParams) {
    const plain = NO_FILTERS.has(name) || OPERATOR.test(value);
    query.append(name, plain ? value : "eq." + value);
  }
  here.search = query;
  return here.href;
}
