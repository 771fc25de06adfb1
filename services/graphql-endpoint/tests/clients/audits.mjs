// Runs the audits of graphql-http for GraphQL over HTTP against the endpoint at URL. Exits with 0
// if the endpoint complies with each MUST and SHOULD. A failed MAY is printed only.
import assert from "node:assert/strict";
import { serverAudits } from "graphql-http";

/** A MAY that becomes a MUST for servers with GET requests: GET executes no mutation. */
const NO_MUTATION_BY_GET = "9C48";

const audits = serverAudits({ url: process.env.URL });
// Another version of the package with other audits needs another look.
assert.equal(audits.length, 61);

const violations = [];
for (const { id, name, fn } of audits) {
  const { status, reason, response } = await fn();
  console.log(`${status}: ${id} ${name}`);
  if (status === "ok") continue;
  const type = response.headers.get("content-type");
  const body = response.bodyUsed ? "consumed" : (await response.text()).slice(0, 200);
  const failure = `  ${reason}. Status ${response.status}, type ${type}, body ${body}`;
  console.log(failure);
  if (id === NO_MUTATION_BY_GET || !name.startsWith("MAY ")) {
    violations.push(`${id} ${name}\n${failure}`);
  }
}
assert.deepEqual(violations, []);
