// Tables with the figures of `make footprint` and of the talk.
import type { ComponentChildren } from "preact";

/** The content of footprint.json; missing parts are not shown. */
export interface Figures {
  ours?: { image_mb: number; start_ms: number; memory_mib: number };
  sizes?: Record<string, Record<string, { bytes: number; compressed: number }>>;
  services?: Record<
    string,
    {
      own_ms?: number;
      ready_ms?: number;
      rss_idle_mib?: number;
      rss_max_mib?: number;
      threads?: number;
    }
  >;
  commit?: string;
  machine?: string;
  date?: string;
}

/** The content of talk-2019.json. */
export interface Talk {
  source: string;
  conditions: string;
  implementations: {
    name: string;
    image_mb: number;
    start_ms: number;
    memory_mib: number;
    highest_load_per_s: number;
  }[];
}

export function Footprint({
  figures,
  talk,
}: {
  figures: Figures | undefined;
  talk: Talk | undefined;
}) {
  const { ours, sizes = {}, services = {} } = figures ?? {};
  const images = Object.entries(sizes).flatMap(([name, archs]) =>
    Object.entries(archs).map(([arch, size]) => ({ name, arch, ...size })),
  );
  return (
    <>
      <Table
        id="footprint-talk"
        caption="Compared with the talk"
        head={["command handler", "image, MB", "start, ms", "memory, MiB"]}
        rows={[
          ...(talk?.implementations ?? []).map((it) => [
            `${it.name} (2019)`,
            it.image_mb,
            it.start_ms,
            it.memory_mib,
          ]),
          ...(ours ? [["scratchbank", ours.image_mb, ours.start_ms, ours.memory_mib]] : []),
        ]}
      />
      {talk && (
        <p>
          <small>
            The talk’s figures: {talk.source}. {talk.conditions} The talk used another machine, so
            only the sizes are directly comparable.
          </small>
        </p>
      )}
      <Table
        id="footprint-images"
        caption="Images"
        head={["image", "architecture", "MB", "MB compressed"]}
        rows={images.map(({ name, arch, bytes, compressed }) => [
          name,
          arch,
          bytes / 1e6,
          compressed / 1e6,
        ])}
      />
      <Table
        id="footprint-services"
        caption="Start-up and memory of the services"
        head={["service", "own start, ms", "ready, ms", "idle, MiB", "max, MiB", "threads"]}
        rows={Object.entries(services).map(([name, it]) => [
          name,
          it.own_ms,
          it.ready_ms,
          it.rss_idle_mib,
          it.rss_max_mib,
          it.threads,
        ])}
      />
      {figures?.commit && (
        <p>
          <small>
            Measured on commit {figures.commit}, {figures.machine}, {figures.date}.
          </small>
        </p>
      )}
    </>
  );
}

function number(it: number): string {
  const digits = Number.isInteger(it) ? 0 : 2;
  return it.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

type Cell = string | number | undefined;

function Table({
  id,
  caption,
  head,
  rows,
}: {
  id: string;
  caption: string;
  head: string[];
  rows: Cell[][];
}) {
  if (rows.length === 0) return null;
  const text = (cell: Cell): ComponentChildren =>
    typeof cell === "number" ? number(cell) : (cell ?? "–");
  const side = (cell: Cell): string | undefined =>
    typeof cell === "string" ? undefined : "has-text-right";
  return (
    <div class="table-container" role="region" aria-label={caption} tabIndex={0}>
      <table class="table is-narrow" id={id}>
        <caption>{caption}</caption>
        <thead>
          <tr>
            {head.map((cell, at) => (
              <th scope="col" key={at} class={side(rows[0]?.[at])}>
                {cell}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, number) => (
            <tr key={number}>
              {row.map((cell, at) =>
                at === 0 ? (
                  <th scope="row" key={at}>
                    {cell}
                  </th>
                ) : (
                  <td key={at} class={side(cell)}>
                    {text(cell)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
