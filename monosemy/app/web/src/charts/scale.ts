/** Scales and round ticks of an axis. */
import { num, superscript } from "../format";

export interface Scale {
  log: boolean;
  domain: [number, number];
  /** Value → place between `range`'s ends. */
  at: (value: number) => number;
  /** Place → value. */
  value: (place: number) => number;
}

export function scale(log: boolean, domain: [number, number], range: [number, number]): Scale {
  const forward = log ? Math.log : (x: number) => x;
  const back = log ? Math.exp : (x: number) => x;
  const low = forward(domain[0]);
  const span = forward(domain[1]) - low || 1;
  const [start, end] = range;
  return {
    log,
    domain,
    at: (value) => start + ((forward(value) - low) / span) * (end - start),
    value: (place) => back(low + ((place - start) / (end - start)) * span),
  };
}

/** Least and largest finite value (positive ones only on a log scale), widened by a share of the span. */
export function domainOf(values: Iterable<number | null | undefined>, log: boolean, margin = 0.06): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || value === undefined || !Number.isFinite(value) || (log && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return log ? [0.1, 10] : [0, 1];
  if (log) {
    const widen = Math.exp(Math.max(Math.log(high / low) * margin, 0.05));
    return [low / widen, high * widen];
  }
  const widen = Math.max((high - low) * margin, Math.abs(high) * 1e-3, 1e-12);
  return [low - widen, high + widen];
}

function linearTicks([low, high]: [number, number], count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10) * power;
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Round values within the domain: 1-2-5 steps; on a log scale whole powers, or 1-2-5 within few of them. */
export function ticks(scale: Scale, count = 5): number[] {
  const [low, high] = scale.domain;
  if (!scale.log) return linearTicks(scale.domain, count);
  const decades = Math.log10(high / low);
  if (decades < 0.5) return linearTicks(scale.domain, count);
  const stride = Math.max(1, Math.ceil(decades / count));
  const values: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    const parts = decades <= 1 ? [1, 1.5, 2, 3, 5, 7] : decades <= Math.max(2, count / 3 + 0.5) ? [1, 2, 5] : [1];
    if (power % stride === 0) for (const m of parts) values.push(m * 10 ** power);
  }
  return values.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

/** A tick's words: plain numbers from 0.001 to 9,999, else a power of ten. */
export function tickText(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e4) return Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 6 }).replace("-", "−");
  const power = Math.log10(size);
  return Number.isInteger(Math.round(power * 1e6) / 1e6) ? `${value < 0 ? "−" : ""}10${superscript(Math.round(power))}` : num(value, 2);
}
