/** Error against sparsity, one curve per architecture, with intervals; every point leads to its SAE. */
import type { EvaluationRecord } from "../api";
import { DataTable } from "../parts/bits";
import { interval, num } from "../format";
import { architecture, colours, dashes, inOrder, shape } from "../looks";
import { useShared, useWidth } from "../state";
import { Axes } from "./axes";
import type { Frame } from "./axes";
import { domainOf, scale } from "./scale";
import type { Scale } from "./scale";

type Measure = "delta_loss" | "fvu";
interface FrontierProps {
  title: string;
  measure: Measure;
  yName: string;
  records: EvaluationRecord[];
  href: (record: EvaluationRecord) => string | null;
}

/** Names down the right edge, each as near to its curve's end as its neighbours allow. */
function spread(heights: number[], gap: number, low: number, high: number): number[] {
  const order = heights.map((y, i) => ({ y, i })).sort((a, b) => a.y - b.y);
  let floor = low - gap;
  for (const item of order) floor = item.y = Math.max(item.y, floor + gap);
  let ceiling = high + gap;
  for (const item of order.toReversed()) ceiling = item.y = Math.min(item.y, ceiling - gap);
  return order.sort((a, b) => a.i - b.i).map((item) => item.y);
}

export function Frontier({ title, measure, yName, records, href }: FrontierProps) {
  const { run } = useShared();
  const [ref, width] = useWidth<HTMLDivElement>();
  const drawn = records.filter((r) => (r.l0 ?? 0) > 0 && (r[measure] ?? 0) > 0);
  const names = inOrder(drawn.map((r) => r.architecture));
  const frame: Frame = { width, height: 330, left: 38, right: 112, top: 24, bottom: 38 };
  const ends = drawn.flatMap((r) => (r[`${measure}_interval`] as [number, number] | null) ?? [r[measure] ?? null]);
  const x = scale(true, domainOf(drawn.map((r) => r.l0), true, 0.08), [frame.left, width - frame.right]);
  const y = scale(true, domainOf(ends, true, 0.04), [frame.height - frame.bottom, frame.top]);
  const targets = [...new Set(drawn.map((r) => r.target_l0).filter((t): t is number => t !== null))].sort((a, b) => a - b);
  const curves = names.map((name) => ({
    name,
    points: drawn.filter((r) => r.architecture === name).sort((a, b) => (a.l0 ?? 0) - (b.l0 ?? 0)),
  }));
  const heights = spread(curves.map((c) => y.at(c.points.at(-1)?.[measure] ?? 1)), 15, frame.top + 4, frame.height - frame.bottom - 2);
  return (
    <figure class="chart" ref={ref} aria-label={title}>
      {width > 0 && drawn.length > 0 && (
        <svg viewBox={`0 0 ${width} ${frame.height}`} height={frame.height}>
          <Axes frame={frame} x={x} y={y} xName={`Active latents per ${run.unit === "rows" ? "row" : "token"} (L0), log scale`} yName={yName} xTicks={targets.length > 1 ? targets : undefined} />
          {curves.map(({ name, points }, i) => {
            const last = points.at(-1);
            return (
              <g class="series" style={colours(name)} key={name}>
                <path class="curve" stroke-dasharray={dashes(name)} d={points.map((p, k) => `${k ? "L" : "M"}${x.at(p.l0 ?? 1)},${y.at(p[measure] ?? 1)}`).join("")} />
                {points.map((p) => (
                  <Point key={p.name} record={p} measure={measure} x={x.at(p.l0 ?? 1)} y={y} shape={shape(name)} href={href(p)} />
                ))}
                {last && (
                  <g aria-hidden="true">
                    <path class="leader" fill="none" d={`M${x.at(last.l0 ?? 1) + 8},${y.at(last[measure] ?? 1)}L${width - frame.right + 8},${heights[i]}`} />
                    <text class="series-label" x={width - frame.right + 12} y={heights[i]} dy="0.34em">
                      {architecture(name)}
                    </text>
                  </g>
                )}
              </g>
            );
          })}
        </svg>
      )}
      <DataTable
        title={title}
        head={["SAE", "L0", yName, "95% interval"]}
        rows={drawn.map((r) => [r.name, num(r.l0), num(r[measure]), interval(r[`${measure}_interval`] as [number, number] | null)])}
      />
    </figure>
  );
}

function Point(props: { record: EvaluationRecord; measure: Measure; x: number; y: Scale; shape: string | undefined; href: string | null }) {
  const { record, measure, x, y } = props;
  const ends = record[`${measure}_interval`] as [number, number] | null;
  const words = `${record.name}: L0 ${num(record.l0)}, ${num(record[measure])} ${interval(ends)}`;
  const mark = (
    <path class={`mark${record.control ? " hollow" : ""}`} d={props.shape} transform={`translate(${x},${y.at(record[measure] ?? 1)})`}>
      <title>{words}</title>
    </path>
  );
  return (
    <>
      {ends && <line class="whisker" x1={x} x2={x} y1={y.at(Math.max(ends[0], y.domain[0]))} y2={y.at(ends[1])} />}
      {props.href ? (
        <a href={props.href} aria-label={words}>
          {mark}
        </a>
      ) : (
        mark
      )}
    </>
  );
}
