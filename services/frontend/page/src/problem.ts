// Errors in responses, and why there is no connection to the endpoint.

/** Texts for the reader instead of those for the author of a request. */
const TEXTS: Record<string, string> = {
  UNAUTHENTICATED: "this bank’s ledger is not public. Log in to see your own account",
  FORBIDDEN: "this bank’s ledger is not public. Your login shows your own account only",
};
const FINAL =
  /^(GRAPHQL_|BAD_|OPERATION_RESOLUTION_FAILURE|UNAUTHENTICATED|FORBIDDEN|TOO_COSTLY)/;

/** An error in a response. docs/graphql.md lists the codes. */
export class BankError extends Error {
  /** True if the same request would fail again. */
  readonly isFinal: boolean;
  /** True if the login may not read this, or if there is no login. */
  readonly isDenied: boolean;

  constructor(
    message: string,
    /** Empty if the error has no code. Later versions of the bank may have more codes. */
    readonly code = "",
  ) {
    super(TEXTS[code] ?? message);
    this.isFinal = FINAL.test(code);
    this.isDenied = code in TEXTS;
  }
}

// Scripts cannot see why the handshake of a websocket failed. So the page sends an HTTP request to
// the same address and reads its status.

/** A cause that the user can do something about, or that a longer wait resolves. */
export interface Problem {
  text: string;
  /** Time until the next attempt. */
  retryMs: number;
}

/** A change of the configuration resolves these, so frequent attempts only cost. */
const REFUSED_RETRY_MS = 30_000;
const BUSY_RETRY_MS = 5_000;
const RETRY_MS_MAX = 60_000;
const TIMEOUT_MS = 5_000;

const NO_WEBSOCKETS =
  "The bank responds, but opens no live connection. It is busy, or a proxy in front of it does " +
  "not forward websockets.";

/**
 * The cause of the last of `failures` failed handshakes with `endpoint`, a websocket's URL. Null if
 * the endpoint is unreachable, or was until now.
 */
export async function findProblem(endpoint: string, failures: number): Promise<Problem | null> {
  const url = endpoint.replace(/^ws/, "http");
  const status = await statusOf(url);
  if (status === "unreachable") return null;
  if (status === "unreadable") return refusal("requests of this page", location.origin);
  const retryMs = Math.min(status.retryAfterMs ?? BUSY_RETRY_MS, RETRY_MS_MAX);
  switch (status.code) {
    case 200:
      // The first failures are those of an endpoint that was starting.
      return failures < 3 ? null : { text: NO_WEBSOCKETS, retryMs };
    case 403:
      return refusal("requests of this page", location.origin);
    case 421: {
      const { protocol, hostname } = new URL(url);
      const isOwn = hostname === location.hostname;
      const origin = isOwn ? location.origin : `${protocol}//${hostname}`;
      return refusal(`the host name ${hostname}`, origin);
    }
    case 429:
      return { text: "The bank received too many requests from here.", retryMs };
    case 502:
    case 503:
    case 504:
      return { text: "The bank is busy or is starting.", retryMs };
    default:
      return {
        text:
          `The response has status ${status.code}. GRAPHQL_URL of the frontend must be the ` +
          "address of the GraphQL endpoint.",
        retryMs: REFUSED_RETRY_MS,
      };
  }
}

/** `allowed` is the origin that CORS_ORIGINS lacks. */
function refusal(what: string, allowed: string): Problem {
  return {
    text:
      `The bank refuses ${what}. Add ${allowed} to CORS_ORIGINS of the graphql-endpoint, or open ` +
      "this page at an address that is allowed.",
    retryMs: REFUSED_RETRY_MS,
  };
}

interface Status {
  code: number;
  /** Header Retry-After in seconds, if the page may read it. */
  retryAfterMs: number | undefined;
}

/** "unreadable": the endpoint responds, but does not allow this page to read the response. */
async function statusOf(url: string): Promise<Status | "unreadable" | "unreachable"> {
  const send = (mode: RequestMode): Promise<Response> =>
    fetch(`${url}?query={__typename}`, {
      mode,
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  try {
    const { status, headers } = await send("cors");
    const seconds = Number(headers.get("Retry-After") ?? NaN);
    return { code: status, retryAfterMs: seconds >= 0 ? seconds * 1000 : undefined };
  } catch (err) {
    if ((err as Error).name === "TimeoutError") return "unreachable";
    return send("no-cors").then(
      () => "unreadable",
      () => "unreachable",
    );
  }
}
