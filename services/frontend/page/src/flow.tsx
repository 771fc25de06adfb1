// A diagram of the services (boxes), the topics between them (rounded) and the databases.

type Kind = "service" | "topic" | "database";
type Node = { x: number; y: number; name: string[]; kind: Kind };

/** `x` and `y` are the upper left corner. */
const NODES: Node[] = [
  { x: 10, y: 20, name: ["heartbeat"], kind: "service" },
  { x: 180, y: 20, name: ["heartbeat"], kind: "topic" },
  { x: 410, y: 20, name: ["command-", "generator"], kind: "service" },
  { x: 580, y: 20, name: ["confirm_account_creation", "confirm_money_transfer"], kind: "topic" },
  { x: 810, y: 20, name: ["command-", "handler"], kind: "service" },
  { x: 870, y: 125, name: ["balancedb"], kind: "database" },
  {
    x: 770,
    y: 230,
    name: ["account_creation_*", "money_transfer_*", "balance_changed"],
    kind: "topic",
  },
  { x: 580, y: 230, name: ["graphql-", "endpoint"], kind: "service" },
  { x: 410, y: 230, name: ["transactiondb"], kind: "database" },
  { x: 410, y: 125, name: ["this page"], kind: "service" },
];
const HEIGHT = 56;
const WIDTHS: Record<Kind, number> = { service: 130, topic: 190, database: 110 };

/** Arrows; `both` for one with two heads. */
const ARROWS: { path: string; both?: boolean }[] = [
  { path: "M140 48H178" },
  { path: "M370 48H408" },
  { path: "M540 48H578" },
  { path: "M770 48H808" },
  { path: "M925 78V122", both: true },
  { path: "M840 76V228" },
  { path: "M770 258H712" },
  { path: "M578 258H522", both: true },
  { path: "M675 230V78" },
  { path: "M610 228V153H542", both: true },
];

export function Flow() {
  return (
    <div class="flow" role="region" aria-label="Architecture" tabIndex={0}>
      <svg viewBox="0 0 990 300" role="img" aria-labelledby="flow-title flow-text">
        <title id="flow-title">How commands and outcomes flow</title>
        <desc id="flow-text">
          The heartbeat service sends records to the topic heartbeat. The command-generator turns
          each into a command on confirm_account_creation or confirm_money_transfer. The
          command-handler executes the commands on balancedb. It publishes the outcomes on the
          account_creation and money_transfer topics and the new balances on balance_changed. The
          graphql-endpoint stores the new balances in transactiondb and serves this page. It sends
          the commands of this page to the same command topics.
        </desc>
        <defs>
          <marker
            id="tip"
            viewBox="0 0 8 8"
            refX="7"
            refY="4"
            markerWidth="7"
            markerHeight="7"
            orient="auto-start-reverse"
          >
            <path d="M0 0 8 4 0 8z" />
          </marker>
        </defs>
        {ARROWS.map(({ path, both }) => (
          <path
            class="arrow"
            key={path}
            d={path}
            marker-end="url(#tip)"
            marker-start={both ? "url(#tip)" : undefined}
          />
        ))}
        {NODES.map((node) => (
          <Shape key={`${node.x},${node.y}`} {...node} />
        ))}
      </svg>
    </div>
  );
}

function Shape({ x, y, name, kind }: Node) {
  const width = WIDTHS[kind];
  const first = y + HEIGHT / 2 + 5 - (name.length - 1) * 8 + (kind === "database" ? 5 : 0);
  // A cylinder: down, along the bottom, up, along the top and its front edge.
  const side = HEIGHT - 16;
  const arc = `a${width / 2} 8 0 0 0`;
  const walls = `M${x} ${y + 8}v${side}${arc} ${width} 0v${-side}`;
  const cylinder = `${walls}${arc}${-width} 0${arc} ${width} 0`;
  return (
    <g class={kind}>
      {kind === "database" ? (
        <path d={cylinder} />
      ) : (
        <rect x={x} y={y} width={width} height={HEIGHT} rx={kind === "topic" ? HEIGHT / 2 : 4} />
      )}
      <text text-anchor="middle">
        {name.map((line, at) => (
          <tspan key={at} x={x + width / 2} y={first + at * 16}>
            {line}
          </tspan>
        ))}
      </text>
    </g>
  );
}
