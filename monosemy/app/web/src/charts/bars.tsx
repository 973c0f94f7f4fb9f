/** Counts between edges, as bars from zero. */
import { count, num } from "../format";
import { DataTable } from "../parts/bits";
import { useWidth } from "../state";
import { Axes } from "./axes";
import type { Frame } from "./axes";
import { scale } from "./scale";

interface BarsProps {
  title: string;
  xName: string;
  yName: string;
  edges: number[];
  counts: number[];
  height?: number;
  /** A second set of counts, drawn as a line of steps. */
  other?: { name: string; counts: number[] };
  name?: string;
  line?: { at: number; name: string };
  text?: (value: number) => string;
}

export function Bars({ title, xName, yName, edges, counts, height = 170, other, name, line, text = num }: BarsProps) {
  const [ref, width] = useWidth<HTMLDivElement>();
  const frame: Frame = { width, height, left: 42, right: 14, top: 22, bottom: 36 };
  const top = Math.max(1, ...counts, ...(other?.counts ?? []));
  const x = scale(false, [edges[0] ?? 0, edges.at(-1) ?? 1], [frame.left, width - frame.right]);
  const y = scale(false, [0, top], [height - frame.bottom, frame.top]);
  const steps = other?.counts.map((n, i) => `${i ? "L" : "M"}${x.at(edges[i] ?? 0)},${y.at(n)}H${x.at(edges[i + 1] ?? 0)}`).join("");
  const head = [xName, name ?? yName, ...(other ? [other.name] : [])];
  return (
    <figure class="chart" ref={ref} aria-label={title}>
      {width > 0 && (
        <svg viewBox={`0 0 ${width} ${height}`} height={height} role="img" aria-label={`${title}: ${counts.length} bars, the table below has the numbers`}>
          <Axes frame={frame} x={x} y={y} xName={xName} yName={yName} />
          {counts.map((n, i) => {
            const left = x.at(edges[i] ?? 0);
            const wide = x.at(edges[i + 1] ?? 0) - left;
            const tall = Math.max(n > 0 ? 1 : 0, y.at(0) - y.at(n));
            return (
              <rect class="bar" key={i} x={left + 0.5} width={Math.max(0.5, wide - 1)} y={y.at(0) - tall} height={tall}>
                <title>{`${text(edges[i] ?? 0)} to ${text(edges[i + 1] ?? 0)}: ${count(n)}`}</title>
              </rect>
            );
          })}
          {steps && <path class="curve" d={steps} />}
          {line && line.at >= x.domain[0] && line.at <= x.domain[1] && (
            <g>
              <line class="ref" x1={x.at(line.at)} x2={x.at(line.at)} y1={frame.top} y2={y.at(0)} />
              <text x={x.at(line.at) + (x.at(line.at) < width / 2 ? 4 : -4)} y={frame.top - 3} text-anchor={x.at(line.at) < width / 2 ? "start" : "end"}>
                {line.name}
              </text>
            </g>
          )}
        </svg>
      )}
      <DataTable
        title={title}
        head={head}
        rows={counts.map((n, i) => [`${text(edges[i] ?? 0)} – ${text(edges[i + 1] ?? 0)}`, count(n), ...(other ? [count(other.counts[i])] : [])])}
      />
    </figure>
  );
}
