// The frame around the pages: menu, connection state, theme, and the choice of the page.
import { signal } from "@preact/signals";
import { render, type ComponentType } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { Background } from "./background";
import { connection, connections, endpoint, problem, retryNow } from "./bank";
import { Client } from "./client";
import { BankEmployee } from "./employee";
import { Home } from "./home";
import { session, theme, type Theme } from "./session";

interface Page {
  path: string;
  name: string;
  title: string;
  content: ComponentType;
}

const HOME: Page = { path: "/", name: "Home", title: "The company’s account", content: Home };
/** In the order of the menu. The server serves the same paths: `PATHS` in src/page.rs. */
const MENU: Page[] = [
  { path: "/bank-employee", name: "Bank employee", title: "All accounts", content: BankEmployee },
  { path: "/client", name: "Client", title: "Your account", content: Client },
  { path: "/background", name: "Background", title: "Background and results", content: Background },
];

const path = signal(location.pathname);
addEventListener("popstate", () => (path.value = location.pathname));
// A link between the pages changes the page without a request, unless it opens in another tab.
addEventListener("click", (event) => {
  const link = event.target instanceof Element && event.target.closest("a");
  const elsewhere =
    event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  if (!link || elsewhere || link.origin !== location.origin || link.hash) return;
  if (![HOME, ...MENU].some((page) => page.path === link.pathname)) return;
  event.preventDefault();
  if (link.pathname !== path.value) history.pushState(null, "", link.pathname);
  path.value = link.pathname;
});

function App() {
  const page = MENU.find((it) => it.path === path.value) ?? HOME;
  const title = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);
  // The heading of a new page takes the focus, so that screen readers announce the page.
  useLayoutEffect(() => {
    document.title = `${page.name} · scratchbank`;
    if (!first.current) {
      scrollTo(0, 0);
      title.current?.focus();
    }
    first.current = false;
  }, [page]);
  const Content = page.content;
  return (
    <>
      <a class="skip" href="#main">
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="/" aria-current={page === HOME ? "page" : undefined}>
          scratchbank
        </a>
        <nav aria-label="Pages">
          <div id="flex-main-menu">
            {MENU.map((it) => (
              <a key={it.path} href={it.path} aria-current={it === page ? "page" : undefined}>
                {it.name}
              </a>
            ))}
          </div>
        </nav>
        <div class="state">
          {session.value && <span class="who is-hidden-mobile">{session.value.username}</span>}
          <Connection />
          <ThemeButton />
        </div>
      </header>
      <main class="container is-fluid" id="main">
        <NoConnection />
        <h1 class="title" tabIndex={-1} ref={title}>
          {page.title}
        </h1>
        <Content />
      </main>
    </>
  );
}

const UNREACHABLE = "The bank is unreachable.";

/** Why there is no connection, and what the user can do. */
function NoConnection() {
  const state = connection.value;
  if (state !== "lost" && state !== "ended") return null;
  const unknown = connections.value > 0 ? "The connection to the bank is lost." : UNREACHABLE;
  const { text, retryMs } = problem.value ?? { text: unknown, retryMs: 0 };
  const remedy =
    state === "ended"
      ? "Reload this page to continue."
      : retryMs > 0
        ? `This page tries again every ${Math.ceil(retryMs / 1000)} seconds.`
        : "This page reconnects and then continues.";
  return (
    <div class="notification is-warning" id="connection-lost">
      <p role="alert">
        {text} {remedy} <small>({endpoint})</small>
      </p>
      {state === "ended" ? (
        <button type="button" class="button is-small" onClick={() => location.reload()}>
          Reload
        </button>
      ) : (
        retryMs > 0 && (
          <button type="button" class="button is-small" onClick={retryNow}>
            Try again now
          </button>
        )
      )}
    </div>
  );
}

const CONNECTIONS = {
  connecting: "connecting…",
  connected: "live",
  lost: "not connected",
  ended: "not connected",
};

function Connection() {
  return (
    <span
      id="connection"
      class={`connection ${connection.value}`}
      data-state={connection.value}
      role="status"
    >
      {CONNECTIONS[connection.value]}
    </span>
  );
}

function ThemeButton() {
  const now: Theme =
    theme.value ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const other = now === "dark" ? "light" : "dark";
  return (
    <button
      type="button"
      class="button is-small"
      id="theme"
      aria-label={`Use ${other} colours`}
      onClick={() => (theme.value = other)}
    >
      {other === "dark" ? "Dark" : "Light"}
    </button>
  );
}

render(<App />, document.getElementById("app")!);
