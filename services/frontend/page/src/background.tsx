// The background page: what the project is, its architecture, and the results on the server.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Flow } from "./flow";
import { Footprint, type Figures, type Talk } from "./footprint";

const RETRY_MS = 10_000;

export function Background() {
  const [results, setResults] = useState<Results | null>(null);
  const [reason, setReason] = useState("");
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let left = false;
    const attempt = (): void => {
      load().then(
        (loaded) => {
          setReason("");
          setResults(loaded);
        },
        (err: Error) => {
          setReason(err.message);
          if (!left) timer = setTimeout(attempt, RETRY_MS);
        },
      );
    };
    attempt();
    return () => {
      left = true;
      clearTimeout(timer);
    };
  }, []);
  const sections = [ARCHITECTURE, ...resultSections(results, reason)];
  // The browser looks for the fragment of the URL before the results are loaded.
  useEffect(() => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (results && target) target.scrollIntoView();
  }, [results]);
  return (
    <div class="background">
      <nav id="contents" aria-label="Contents">
        <ul>
          {sections.map(({ title }) => (
            <li key={title}>
              <a href={`#${idOf(title)}`}>{title}</a>
            </li>
          ))}
        </ul>
      </nav>
      <div class="content">
        <p>
          scratchbank simulates a bank on Apache Kafka. Its services are small static Rust programs.
          It answers the talk “Adding some Rust to your Kafka” (Gerard Klijs, 2019). In that talk, a
          command-handler with the pure-Rust Kafka client won on memory, CPU and image size. It lost
          on latency, because it sent each record in a request of its own. This bank sends records
          in batches.
        </p>
        <p>
          Heartbeat records set the load: each one becomes a command to open an account or to
          transfer money. The command-handler executes each command once, stores the outcome and
          publishes it. Stored balances and published outcomes agree, even after a crash of any
          process. The GraphQL endpoint stores the published balances and streams them to its
          subscribers, such as this page.
        </p>
        {sections.map(({ title, content }) => (
          <section key={title} id={idOf(title)}>
            <h2>{title}</h2>
            {content}
          </section>
        ))}
      </div>
    </div>
  );
}

/** A part of the page with an entry in the table of contents. */
interface Section {
  title: string;
  content: ComponentChildren;
}

function idOf(title: string): string {
  return title.toLowerCase().replace(/[^a-z]+/g, "-");
}

const ARCHITECTURE: Section = {
  title: "Architecture",
  content: (
    <>
      <Flow />
      <p>
        Services never call each other; they exchange records on Kafka topics. Commands enter at the
        top, outcomes leave at the bottom. Each of the two databases belongs to one service.
      </p>
    </>
  ),
};

interface File {
  name: string;
  bytes: number;
}

interface Graph {
  file: File;
  title: string;
  text: string;
  /** Size of the image, which prevents a layout shift when it is loaded. */
  width?: number | undefined;
  height?: number | undefined;
}

interface Results {
  graphs: Graph[];
  rows: File[];
  footprint: Figures | undefined;
  talk: Talk | undefined;
}

/** Groups of graphs by their file names; the first pattern that matches decides. */
const GROUPS: [title: string, names: RegExp][] = [
  ["Footprint", /^footprint/],
  ["Comparison of command-handlers", /^comparison/],
  ["CPU", /cpu/],
  ["Memory", /memory/],
  ["Latency", /latency/],
  ["Load", /load|records|heartbeats/],
  ["Other graphs", /./],
];
/** The groups as the page shows them; the footprint follows. */
const ORDER = [
  "Load",
  "Latency",
  "CPU",
  "Memory",
  "Other graphs",
  "Comparison of command-handlers",
];

function resultSections(results: Results | null, reason: string): Section[] {
  if (reason) {
    const content = (
      <p class="notification is-danger" role="alert">
        Results cannot be loaded: {reason}. This page tries again every {RETRY_MS / 1000} seconds.
      </p>
    );
    return [{ title: "Results", content }];
  }
  if (!results) {
    const content = (
      <p class="notification" role="status">
        Loading results…
      </p>
    );
    return [{ title: "Results", content }];
  }
  const { graphs, rows, footprint, talk } = results;
  const figures = (group: string): ComponentChildren[] =>
    graphs
      .filter(({ file }) => GROUPS.find(([, names]) => names.test(file.name))?.[0] === group)
      .map((graph) => <Figure key={graph.file.name} graph={graph} rows={rowsOf(graph, rows)} />);
  const sections: Section[] = ORDER.map((title) => ({ title, content: figures(title) })).filter(
    ({ content }) => content.length > 0,
  );
  if (sections.length === 0) {
    const content = (
      <p class="notification" id="no-results">
        There are no graphs yet. <code>make bench</code> creates them.
      </p>
    );
    sections.push({ title: "Results", content });
  }
  if (footprint ?? talk) {
    const content = [figures("Footprint"), <Footprint figures={footprint} talk={talk} />];
    sections.push({ title: "Footprint", content });
  }
  const raw = rows.filter((file) => !graphs.some((graph) => rowsOf(graph, [file])));
  if (raw.length > 0) {
    const content = (
      <ul id="rows">
        {raw.map((file) => (
          <li key={file.name}>
            <Download file={file} />
          </li>
        ))}
      </ul>
    );
    sections.push({ title: "Raw data", content });
  }
  return sections;
}

function Figure({ graph, rows }: { graph: Graph; rows: File | undefined }) {
  const { file, title, text, width, height } = graph;
  const url = `/results/${file.name}`;
  return (
    <figure class="graph">
      {/* For the mouse only: the keyboard uses the link in the caption. */}
      <a href={url} target="_blank" tabIndex={-1}>
        <img src={url} alt={title} width={width} height={height} />
      </a>
      <figcaption>
        <strong>{title}.</strong> {text}{" "}
        <a href={url} target="_blank" class="full-size">
          Full size<span class="is-sr-only"> of “{title}”, in a new tab</span>
        </a>{" "}
        {rows && <Download file={rows} />}
      </figcaption>
    </figure>
  );
}

function Download({ file }: { file: File }) {
  const kilobytes = Math.ceil(file.bytes / 1000).toLocaleString("en");
  return (
    <a href={`/results/${file.name}`} download={file.name}>
      {file.name} ({kilobytes} kB)
    </a>
  );
}

async function load(): Promise<Results> {
  const files = (await (await get("")).json()) as File[];
  const ending = (wanted: string): File[] => files.filter((file) => file.name.endsWith(wanted));
  const figures = async <T,>(name: string): Promise<T | undefined> => {
    return files.some((file) => file.name === name)
      ? ((await (await get(name)).json()) as T)
      : undefined;
  };
  const [svgs, footprint, talk] = await Promise.all([
    Promise.all(ending(".svg").map(describe)),
    figures<Figures>("footprint.json"),
    figures<Talk>("talk-2019.json"),
  ]);
  const pngs = ending(".png").map((file) => ({ file, title: words(file.name), text: "" }));
  return { graphs: [...svgs, ...pngs], rows: ending(".csv"), footprint, talk };
}

/** Title and text of an SVG graph: its first `title` and `desc`. */
async function describe(file: File): Promise<Graph> {
  const svg = await (await get(file.name)).text();
  const inside = (element: string): string | undefined => {
    const found = new RegExp(`<${element}[^>]*>([^<]*)</${element}>`).exec(svg)?.[1]?.trim();
    return found
      ?.replaceAll("&lt;", "<")
      .replaceAll("&gt;", ">")
      .replaceAll("&quot;", '"')
      .replaceAll("&amp;", "&");
  };
  const box = /viewBox="([^"]*)"/
    .exec(svg)?.[1]
    ?.trim()
    .split(/[\s,]+/)
    .map(Number);
  return {
    file,
    title: inside("title") || words(file.name),
    text: inside("desc") ?? "",
    width: box?.[2],
    height: box?.[3],
  };
}

/** The CSV file of a graph, which has the same name. */
function rowsOf(graph: Graph, rows: File[]): File | undefined {
  const stem = graph.file.name.replace(/\.[a-z]+$/, "");
  return rows.find((file) => file.name === `${stem}.csv`);
}

/** A file name as words: the title of a graph without a `title`. */
function words(name: string): string {
  const text = name.replace(/\.[a-z]+$/, "").replace(/[-_]+/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

async function get(name: string): Promise<Response> {
  const answer = await fetch(`/results/${name}`);
  if (!answer.ok) throw new Error(`${name || "list of results"}: status ${answer.status}`);
  return answer;
}
