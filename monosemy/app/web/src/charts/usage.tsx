/** Mean activation over firing rate, one dot a latent, on a canvas; a brush chooses a range of both. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { num, share } from "../format";
import { hideTip, showTip, speak } from "../parts/tip";
import { useScheme, useShared, useWidth } from "../state";
import { Axes } from "./axes";
import type { Frame } from "./axes";
import { domainOf, scale } from "./scale";

/** Bounds of the firing rate (x) and of the mean activation (y). */
export interface Box {
  x: [number, number];
  y: [number, number];
}
interface UsageProps {
  rate: Float32Array;
  mean: Float32Array;
  box: Box | null;
  /** Latents outside are drawn faint. */
  inside: (latent: number) => boolean;
  onBox: (box: Box | null) => void;
  onOpen: (latent: number) => void;
}

const HEIGHT = 400;

export function Usage({ rate, mean, box, inside, onBox, onOpen }: UsageProps) {
  const { run } = useShared();
  const [ref, width] = useWidth<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const frame: Frame = { width, height: HEIGHT, left: 46, right: 14, top: 24, bottom: 38 };
  const domains = useMemo(() => [domainOf(rate, true, 0.04), domainOf(mean, true, 0.04)] as const, [rate, mean]);
  const x = scale(true, domains[0], [0, width - frame.left - frame.right]);
  const y = scale(true, domains[1], [HEIGHT - frame.bottom - frame.top, 0]);
  const [drag, setDrag] = useState<{ x0: number; y0: number; x1: number; y1: number } | null>(null);
  const scheme = useScheme();

  useEffect(() => {
    if (canvas.current && width) paint(canvas.current, x.at, y.at, rate, mean, inside);
  }, [rate, mean, inside, width, scheme]);

  const place = (event: PointerEvent) => {
    const at = canvas.current?.getBoundingClientRect();
    return at ? { x: event.clientX - at.left, y: event.clientY - at.top } : { x: 0, y: 0 };
  };
  const down = (event: PointerEvent) => {
    if (event.button !== 0) return;
    const at = place(event);
    canvas.current?.setPointerCapture(event.pointerId);
    setDrag({ x0: at.x, y0: at.y, x1: at.x, y1: at.y });
    hideTip();
  };
  const move = (event: PointerEvent) => {
    const at = place(event);
    if (drag) return setDrag({ ...drag, x1: at.x, y1: at.y });
    const latent = nearest(at, x.at, y.at, rate, mean);
    if (latent < 0) return hideTip();
    const left = canvas.current?.getBoundingClientRect();
    if (left) dotTip(latent, left.left + x.at(rate[latent] ?? 1), left.top + y.at(mean[latent] ?? 1), rate, mean);
  };
  const up = (event: PointerEvent) => {
    if (!drag) return;
    setDrag(null);
    const small = Math.abs(drag.x1 - drag.x0) < 4 && Math.abs(drag.y1 - drag.y0) < 4;
    if (!small) return onBox(boxOf(drag, x.value, y.value));
    const latent = nearest(place(event), x.at, y.at, rate, mean);
    if (latent >= 0) onOpen(latent);
    else onBox(null);
  };
  const press = (event: KeyboardEvent) => {
    const next = keyBox(event, box, domains[0], domains[1]);
    if (next === undefined) return;
    event.preventDefault();
    onBox(next);
    if (next) speak(`Fires on ${share(next.x[0])} to ${share(next.x[1])}, mean ${num(next.y[0])} to ${num(next.y[1])}`);
  };
  const brush = drag
    ? { left: Math.min(drag.x0, drag.x1), top: Math.min(drag.y0, drag.y1), right: Math.max(drag.x0, drag.x1), bottom: Math.max(drag.y0, drag.y1) }
    : box && { left: x.at(Math.max(box.x[0], x.domain[0])), right: x.at(Math.min(box.x[1], x.domain[1])), top: y.at(Math.min(box.y[1], y.domain[1])), bottom: y.at(Math.max(box.y[0], y.domain[0])) };
  const axesX = scale(true, domains[0], [frame.left, width - frame.right]);
  const axesY = scale(true, domains[1], [HEIGHT - frame.bottom, frame.top]);
  return (
    <div class="chart" ref={ref}>
      {width > 0 && (
        <>
          <svg viewBox={`0 0 ${width} ${HEIGHT}`} height={HEIGHT} aria-hidden="true">
            <Axes frame={frame} x={axesX} y={axesY} xName={`Share of ${run.unit} on which it fires, log scale`} yName="Mean activation when it fires, log scale" xText={(value) => `${Number((value * 100).toPrecision(3))}%`} />
          </svg>
          <div
            class="scatter"
            data-arrows
            tabIndex={0}
            role="group"
            aria-label="Usage of every latent: drag to choose a range, or press Enter for a range in the middle, arrow keys to move it, Shift and arrow keys to resize it, Escape to clear it"
            style={{ position: "absolute", left: `${frame.left}px`, top: `${frame.top}px`, width: `${width - frame.left - frame.right}px`, height: `${HEIGHT - frame.bottom - frame.top}px` }}
            onKeyDown={press}
            onPointerDown={down}
            onPointerMove={move}
            onPointerUp={up}
            onPointerCancel={() => setDrag(null)}
            onPointerLeave={hideTip}
          >
            <canvas ref={canvas} />
            {brush && <div class="brush" style={{ left: `${brush.left}px`, top: `${brush.top}px`, width: `${brush.right - brush.left}px`, height: `${brush.bottom - brush.top}px` }} />}
          </div>
        </>
      )}
    </div>
  );
}

function paint(canvas: HTMLCanvasElement, x: (v: number) => number, y: (v: number) => number, rate: Float32Array, mean: Float32Array, inside: (i: number) => boolean): void {
  const density = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  canvas.width = width * density;
  canvas.height = height * density;
  const pen = canvas.getContext("2d");
  if (!pen) return;
  pen.scale(density, density);
  const css = getComputedStyle(document.documentElement);
  const size = mean.length > 40_000 ? 1.5 : mean.length > 8_000 ? 2 : 3;
  const opacity = mean.length > 40_000 ? 0.14 : mean.length > 8_000 ? 0.4 : 0.55;
  for (const selected of [false, true]) {
    pen.fillStyle = css.getPropertyValue(selected ? "--mark" : "--edge");
    pen.globalAlpha = selected ? opacity : 0.16;
    for (let i = 0; i < mean.length; i++) {
      const a = rate[i] ?? 0;
      const b = mean[i] ?? 0;
      if (!(a > 0) || !(b > 0) || inside(i) !== selected) continue;
      pen.fillRect(x(a) - size / 2, y(b) - size / 2, size, size);
    }
  }
}

function nearest(at: { x: number; y: number }, x: (v: number) => number, y: (v: number) => number, rate: Float32Array, mean: Float32Array): number {
  let best = 64; // within 8 pixels
  let latent = -1;
  for (let i = 0; i < mean.length; i++) {
    const a = rate[i] ?? 0;
    const b = mean[i] ?? 0;
    if (!(a > 0) || !(b > 0)) continue;
    const distance = (x(a) - at.x) ** 2 + (y(b) - at.y) ** 2;
    if (distance < best) [best, latent] = [distance, i];
  }
  return latent;
}

function dotTip(latent: number, left: number, top: number, rate: Float32Array, mean: Float32Array): void {
  const rect = new DOMRect(left, top, 0, 0);
  const anchor = { getClientRects: () => [rect], getBoundingClientRect: () => rect } as unknown as Element;
  showTip(anchor, `${latent}`, `mean ${num(mean[latent])}`, `fires on ${share(rate[latent])} of tokens; click opens it`);
}

/** Least squares on the logarithms, both ways: mean = A · rate^forth and rate = A′ · mean^back. */
export interface Slopes {
  forth: number;
  back: number;
  r2: number;
  n: number;
}

/** Null with fewer than 20 latents that fire, and without a spread of either value (as in the report). */
export function slopesOf(rate: Float32Array, mean: Float32Array): Slopes | null {
  const points: [number, number][] = [];
  for (let i = 0; i < rate.length; i++) {
    const f = rate[i] ?? 0;
    const a = mean[i] ?? 0;
    if (f > 0 && a > 0) points.push([Math.log(f), Math.log(a)]);
  }
  const n = points.length;
  const u = points.reduce((sum, point) => sum + point[0], 0) / n;
  const v = points.reduce((sum, point) => sum + point[1], 0) / n;
  let [uu, uv, vv] = [0, 0, 0];
  for (const [x, y] of points) {
    uu += (x - u) ** 2;
    uv += (x - u) * (y - v);
    vv += (y - v) ** 2;
  }
  if (n < 20 || uu < 1e-12 * n || vv < 1e-12 * n) return null;
  return { forth: uv / uu, back: uv / vv, r2: (uv * uv) / (uu * vv), n };
}

const round = (value: number): number => Number(value.toPrecision(3));

function boxOf(drag: { x0: number; y0: number; x1: number; y1: number }, x: (p: number) => number, y: (p: number) => number): Box {
  const sort = (a: number, b: number): [number, number] => (a < b ? [round(a), round(b)] : [round(b), round(a)]);
  return { x: sort(x(drag.x0), x(drag.x1)), y: sort(y(drag.y0), y(drag.y1)) };
}

/** The range after a key: moved, resized, begun (Enter) or cleared (Escape); undefined when the key means nothing. */
function keyBox(event: KeyboardEvent, box: Box | null, dx: [number, number], dy: [number, number]): Box | null | undefined {
  const part = ([low, high]: [number, number], share: number) => low * (high / low) ** share;
  if (event.key === "Enter") return box ?? { x: [round(part(dx, 0.35)), round(part(dx, 0.65))], y: [round(part(dy, 0.35)), round(part(dy, 0.65))] };
  if (event.key === "Escape") return box ? null : undefined;
  const steps: Record<string, [number, number]> = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
  const step = steps[event.key];
  if (!step || !box) return undefined;
  const fx = (dx[1] / dx[0]) ** (0.04 * step[0]);
  const fy = (dy[1] / dy[0]) ** (0.04 * step[1]);
  const first = event.shiftKey ? 1 : 0;
  return {
    x: [round(box.x[0] * (first ? 1 : fx)), round(box.x[1] * fx)],
    y: [round(box.y[0] * (first ? 1 : fy)), round(box.y[1] * fy)],
  };
}
