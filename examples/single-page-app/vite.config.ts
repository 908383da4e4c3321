import { readFileSync } from "node:fs";
import { defineConfig, loadEnv } from "vite";

// Where the API is and where people sign in: FLOWS_… variables or .env, else the running demo's.
export default defineConfig(({ mode }) => {
  const given = loadEnv(mode, import.meta.dirname, "FLOWS_");
  const demo = given.FLOWS_URL ? null : readDemo(given.FLOWS_DEMO ?? "../../.flows/demo.json");
  return {
    base: "./",
    define: {
      __FLOWS__: JSON.stringify({
        url: given.FLOWS_URL ?? demo.base_url,
        issuer: given.FLOWS_ISSUER ?? demo.identity.issuer,
        clientId: given.FLOWS_CLIENT_ID ?? demo.identity.client_id,
        app: given.FLOWS_APP ?? demo.identity.app,
      }),
    },
    server: { host: "127.0.0.1", port: 5173, strictPort: true },
    preview: { host: "127.0.0.1", port: 5173, strictPort: true },
  };
});

function readDemo(path: string) {
  const demo = JSON.parse(readFileSync(path, "utf8"));
  if (!demo.identity) throw new Error(`nobody can sign in to the demo of ${path}; is npm there?`);
  return demo;
}
