// A client whose types graphql-codegen has generated from the schema of the endpoint at URL. It
// opens an account, pays, and follows the account. Exits with 0 if all assertions hold.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createClient } from "graphql-ws";
import WebSocket from "ws";
import type {
  FollowSubscription,
  FollowSubscriptionVariables,
  OpenAccountMutation,
  OpenAccountMutationVariables,
  PayMutation,
  PayMutationVariables,
} from "./types.js";
import { FOLLOW, OPEN_ACCOUNT, PAY } from "./documents.js";

const url = process.env.URL!.replace("http", "ws");
const client = createClient({ url, webSocketImpl: WebSocket });

async function ask<Data, Variables extends Record<string, unknown>>(
  query: string,
  variables: Variables,
): Promise<Data> {
  for await (const { data, errors } of client.iterate<Data>({ query, variables })) {
    assert.equal(errors, undefined);
    return data!;
  }
  throw new Error("no response");
}

const opened = await ask<OpenAccountMutation, OpenAccountMutationVariables>(OPEN_ACCOUNT, {
  username: `user-${randomUUID()}`,
  password: "correct horse",
});
const { iban, token } = opened.get_account!;
assert.ok(iban && token);

const pay = (variables: PayMutationVariables) =>
  ask<PayMutation, PayMutationVariables>(PAY, variables);
const deposit = { uuid: randomUUID(), token: "cash", cents: "1234", from: "cash", to: iban };
assert.equal((await pay(deposit)).money_transfer!.success, true);
const tooMuch = { uuid: randomUUID(), token, cents: "99999999999", from: iban, to: "a shop" };
assert.equal((await pay(tooMuch)).money_transfer!.reason_code, "INSUFFICIENT_FUNDS");
const purchase = { uuid: randomUUID(), token, cents: "34", from: iban, to: "a shop" };
assert.equal((await pay(purchase)).money_transfer!.success, true);

const variables: FollowSubscriptionVariables = { iban, after: "0" };
const balances: bigint[] = [];
for await (const { data } of client.iterate<FollowSubscription>({ query: FOLLOW, variables })) {
  const change = data!.stream_transactions!;
  assert.ok(Math.abs(Date.now() - Date.parse(change.time!)) < 600_000, change.time!);
  assert.equal(change.direction, BigInt(change.changed_by_cents) < 0n ? "DEBIT" : "CREDIT");
  balances.push(BigInt(change.new_balance_cents));
  if (balances.length === 2) break;
}
assert.deepEqual(balances, [1234n, 1200n]);
await client.dispose();
