// What this is, and how it did: the text, the picture of the flow, and the results that the server has files of.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { Flow } from "./flow";
import { Footprint, type Figures, type Talk } from "./footprint";

export function Background() {
  return (
    <div class="content">
      <p>
        scratchbank simulates a bank on Apache Kafka, in small Rust programs that need nothing
        around them. It answers the talk “Adding some Rust to your Kafka” (Gerard Klijs, 2019), in
        which a command handler with the pure-Rust Kafka client won on memory, CPU and image size
        and lost on latency, because it sent every message by itself. This bank sends in batches.
      </p>
      <p>
        Beats drive the load: each becomes an order for an account or a transfer. The command
        handler decides every order once, stores the outcome and announces it; balances and
        announcements can’t differ, whatever is killed when. The GraphQL endpoint stores what was
        announced and tells it to those who listen: this page, over one websocket.
      </p>
      <h2>Architecture</h2>
      <Flow />
      <p>
        Services never call each other: they meet on topics of Kafka. Orders go in at the top,
        outcomes come out at the bottom, and the two databases belong to one service each.
      </p>
      <Results />
    </div>
  );
}

interface File {
  name: string;
  bytes: number;
}

interface Graph {
  file: File;
  title: string;
  text: string;
  /** Its own size, so that nothing moves when it is loaded. */
  width?: number | undefined;
  height?: number | undefined;
}

interface Results {
  graphs: Graph[];
  rows: File[];
  footprint: Figures | undefined;
  talk: Talk | undefined;
}

function Results() {
  const [results, setResults] = useState<Results | null>(null);
  const [reason, setReason] = useState("");
  useEffect(() => {
    load().then(setResults, (err: Error) => setReason(err.message));
  }, []);
  if (reason)
    return (
      <Section title="Results">
        <p class="notification is-danger" role="alert">
          Results can’t be shown: {reason}
        </p>
      </Section>
    );
  if (!results)
    return (
      <Section title="Results">
        <p class="notification" role="status">
          Loading results…
        </p>
      </Section>
    );
  const { graphs, rows, footprint, talk } = results;
  const figures = (of: (graph: Graph) => boolean): ComponentChildren => {
    return graphs
      .filter(of)
      .map((graph) => <Figure key={graph.file.name} graph={graph} rows={rowsOf(graph, rows)} />);
  };
  const raw = rows.filter((file) => !graphs.some((graph) => rowsOf(graph, [file])));
  const isFootprint = ({ file }: Graph): boolean => file.name.startsWith("footprint");
  return (
    <>
      <Section title="Performance">
        {graphs.every(isFootprint) && (
          <p class="notification" id="no-results">
            No graphs yet: <code>make bench</code> makes them.
          </p>
        )}
        {figures((graph) => !isFootprint(graph))}
      </Section>
      {(footprint ?? talk) && (
        <Section title="Footprint">
          {figures(isFootprint)}
          <Footprint figures={footprint} talk={talk} />
        </Section>
      )}
      {raw.length > 0 && (
        <Section title="Raw rows">
          <ul id="rows">
            {raw.map((file) => (
              <li key={file.name}>
                <Download file={file} />
              </li>
            ))}
          </ul>
        </Section>
      )}
    </>
  );
}

function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return (
    <section>
      <h2>{title}</h2>
      {children}
    </section>
  );
}

function Figure({ graph, rows }: { graph: Graph; rows: File | undefined }) {
  const { file, title, text, width, height } = graph;
  const url = `/results/${file.name}`;
  return (
    <figure class="graph">
      <a href={url}>
        <img src={url} alt={title} width={width} height={height} />
      </a>
      <figcaption>
        <strong>{title}.</strong> {text} {rows && <Download file={rows} />}
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

/** A graph says itself what it shows: in its first `title` and `desc`. */
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

/** The rows that a graph is made of have its name. */
function rowsOf(graph: Graph, rows: File[]): File | undefined {
  const stem = graph.file.name.replace(/\.[a-z]+$/, "");
  return rows.find((file) => file.name === `${stem}.csv`);
}

/** A file's name as words: the title of a graph that has none. */
function words(name: string): string {
  const text = name.replace(/\.[a-z]+$/, "").replace(/[-_]+/g, " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

async function get(name: string): Promise<Response> {
  const answer = await fetch(`/results/${name}`);
  if (!answer.ok) throw new Error(`${name || "the list"}: status ${answer.status}`);
  return answer;
}
