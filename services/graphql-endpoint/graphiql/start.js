// Starts GraphiQL. Subscriptions are server-sent events over fetch, which needs no library. Unlike
// EventSource, fetch can send headers.
"use strict";

const examples = `# Ctrl-Enter runs the operation at the cursor. The book
# icon at the top left opens the documentation.

query all_accounts {
  all_last_transactions(max_items: 10) {
    iban new_balance changed_by from_to descr direction
  }
}

query company_account {
  transactions_by_iban(
    iban: "NL66OPEN0000000000"
    max_items: 5
  ) {
    id ref changed_by from_to descr
  }
}

# A statement: the transactions of November 2026, newest
# first. If hasNextPage is true, repeat it with endCursor
# as the variable after.
query statement($after: String) {
  transactions(
    iban: "NL66OPEN0000000000"
    from: "2026-11-01T00:00:00+01:00"
    until: "2026-12-01T00:00:00+01:00"
    first: 50
    after: $after
  ) {
    edges {
      node { time changed_by new_balance from_to descr }
    }
    pageInfo { hasNextPage endCursor }
  }
}

# Live credits of at least 10 euros to any account.
subscription live {
  stream_transactions(min_amount: 1000, direction: CREDIT) {
    iban changed_by new_balance from_to descr
  }
}

# A new user name opens an account. The same name and
# password return the same iban and token again.
mutation account {
  get_account(
    username: "example-user"
    password: "a long password"
  ) {
    iban token reason
  }
}

# Use a new uuid for each transfer. A repeated uuid
# returns the same result and moves no money.
mutation deposit(
  $uuid: String = "2f1c0f6e-3a52-4cf1-8f0a-0c8a1d6a9a11"
) {
  money_transfer(
    uuid: $uuid
    token: "cash"
    amount: 5000
    from: "cash"
    to: "NL66OPEN0000000000"
    descr: "a deposit"
  ) {
    uuid success reason
  }
}

# Replaces the token of an account and logs out everywhere.
mutation log_out(
  $token: String = "the token of your account"
) {
  rotate_token(token: $token) {
    iban token reason
  }
}
`;

function kind(document, name) {
  const operations = (document?.definitions ?? []).filter(
    (it) => it.kind === "OperationDefinition",
  );
  return (operations.find((it) => it.name?.value === name) ?? operations[0])?.operation;
}

async function post(params, accept, headers, signal) {
  return fetch("/graphql", {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json", Accept: accept },
    body: JSON.stringify(params),
    signal,
  });
}

async function* events(params, headers) {
  const cancel = new AbortController();
  try {
    const reply = await post(params, "text/event-stream", headers, cancel.signal);
    if (!reply.ok) {
      yield await reply.json();
      return;
    }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const whole = text.split("\n\n");
      text = whole.pop();
      for (const event of whole) {
        const field = (name) =>
          event
            .split("\n")
            .find((line) => line.startsWith(name + ":"))
            ?.slice(name.length + 1)
            .trim();
        if (field("event") === "complete") return;
        if (field("event") === "next") yield JSON.parse(field("data"));
      }
    }
  } finally {
    cancel.abort();
  }
}

function fetcher(params, options) {
  const headers = options?.headers ?? {};
  if (kind(options?.documentAST, params.operationName) === "subscription")
    return events(params, headers);
  return post(params, "application/json", headers).then((reply) => reply.json());
}

const PREFIX = "graphiql:";
/** What localStorage keeps: the appearance. */
const KEPT = ["theme", "visiblePlugin", "editorFlex", "docExplorerFlex", "secondaryEditorFlex"];

/**
 * The storage of GraphiQL. Queries, variables, headers, tabs and the history can contain passwords
 * and tokens, so they stay in memory until the page is closed.
 */
function createStorage(local) {
  const isKept = (key) => KEPT.some((name) => key === PREFIX + name);
  const memory = new Map();
  for (const key of Object.keys(local ?? {}).filter((it) => it.startsWith(PREFIX))) {
    if (isKept(key)) memory.set(key, local.getItem(key));
    // Stored by an earlier version of this page.
    else local.removeItem(key);
  }
  const removeItem = (key) => {
    memory.delete(key);
    local?.removeItem(key);
  };
  return {
    getItem: (key) => memory.get(key) ?? null,
    setItem(key, value) {
      memory.set(key, value);
      if (isKept(key)) local?.setItem(key, value);
    },
    removeItem,
    clear: () => [...memory.keys()].forEach(removeItem),
    get length() {
      return memory.size;
    },
  };
}

/** Null if the browser's settings forbid it. */
function localStorageOrNull() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

if (typeof ReactDOM !== "undefined") {
  ReactDOM.createRoot(document.getElementById("graphiql")).render(
    React.createElement(GraphiQL, {
      fetcher,
      storage: createStorage(localStorageOrNull()),
      // Headers are never stored, so there is nothing to choose.
      showPersistHeadersSettings: false,
      defaultQuery: examples,
      defaultEditorToolsVisibility: true,
    }),
  );
}

// For tests/clients/clients.mjs.
if (typeof module !== "undefined") module.exports = { fetcher, examples };
