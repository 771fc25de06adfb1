// Generates types from the schema of the endpoint at URL and from operations.graphql, compiles
// typed_client.ts with them, and runs it.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { codegen } from "@graphql-codegen/core";
import * as operations from "@graphql-codegen/typescript-operations";
import { buildClientSchema, getIntrospectionQuery, parse, print, printSchema } from "graphql";

const reply = await fetch(process.env.URL, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ query: getIntrospectionQuery() }),
});
const schema = buildClientSchema((await reply.json()).data);
const document = parse(readFileSync("operations.graphql", "utf8"));
const types = await codegen({
  filename: "types.ts",
  schema: parse(printSchema(schema)),
  schemaAst: schema,
  documents: [{ location: "operations.graphql", document }],
  config: {
    scalars: { DateTime: "string", Long: { input: "string | number", output: "string" } },
    strictScalars: true,
    enumsAsTypes: true,
    useTypeImports: true,
  },
  pluginMap: { operations },
  plugins: [{ operations: {} }],
});
// OpenAccount is OPEN_ACCOUNT.
const name = ({ name }) => name.value.replace(/(?<=.)[A-Z]/g, "_$&").toUpperCase();
const texts = document.definitions.map(
  (it) => `export const ${name(it)} = ${JSON.stringify(print(it))};\n`,
);
mkdirSync("typed", { recursive: true });
writeFileSync("typed/package.json", '{ "type": "module" }');
writeFileSync("typed/types.ts", types);
writeFileSync("typed/documents.ts", texts.join(""));
writeFileSync("typed/client.ts", readFileSync("typed_client.ts"));
const options = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck"];
const node = (...words) => execFileSync(process.execPath, words, { stdio: "inherit" });
node("node_modules/typescript/bin/tsc", ...options, "--outDir", "typed/js", "typed/client.ts");
writeFileSync("typed/js/package.json", '{ "type": "module" }');
node("typed/js/client.js");
