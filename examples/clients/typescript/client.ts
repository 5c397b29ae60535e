// The MCP TypeScript SDK: GATE_URL=... GATE_TOKEN=... node client.ts [auto|legacy]. Node runs TypeScript as it is.

import { randomUUID } from "node:crypto";
import process from "node:process";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

import packaged from "./package.json" with { type: "json" };

const { GATE_URL = "", GATE_TOKEN = "" } = process.env;
const mode = process.argv.includes("legacy") ? "legacy" : "auto";

const client = new Client({ name: "typescript-example", version: "1.0.0" }, { versionNegotiation: { mode } });
const headers = { Authorization: `Bearer ${GATE_TOKEN}` };
await client.connect(new StreamableHTTPClientTransport(new URL(GATE_URL), { requestInit: { headers } }));
const version = packaged.dependencies["@modelcontextprotocol/client"];
say({ client: `@modelcontextprotocol/client ${version}`, era: client.getNegotiatedProtocolVersion() });

const { tools } = await client.listTools();
say({ tools: tools.map((tool) => tool.name) });

const found = await client.callTool({ name: "notes_search", arguments: { contains: "gate" } });
say({ read: found.structuredContent });

// One key for one intended effect: whatever is repeated under it takes effect once.
const _meta = { "dev.toolgate/idempotencyKey": randomUUID() };
for (let time = 0; time < 2; time++) {
  const added = await client.callTool({ name: "notes_add", arguments: { text: "Written in TypeScript" }, _meta });
  say({ wrote: added.structuredContent, replayed: added._meta?.["dev.toolgate/replayed"] });
}

// A refusal is a result: a text that a model can act on, and a code for programs.
const refused = await client.callTool({ name: "notes_add", arguments: { text: "too long".repeat(100) } });
const error = refused._meta?.["dev.toolgate/error"] as { code: string };
const text = refused.content.map((part) => (part.type === "text" ? part.text : "")).join(" ");
say({ refused: error.code, text, is_error: refused.isError });

await client.close();

function say(told: object): void {
  console.log(JSON.stringify(told));
}
