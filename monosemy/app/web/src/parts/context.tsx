/** One context: tokens shaded by a value, which shows on hover and, arrow by arrow, at the keyboard. */
import { useMemo, useRef, useState } from "preact/hooks";
import type { TokenRun } from "../api";
import { num } from "../format";
import { hideTip, showTip, speak } from "./tip";
import { Shown } from "./token";
import { quoted, shade, units, unitValue } from "./tokens";
import type { Unit } from "./tokens";

export interface ContextProps {
  run: TokenRun;
  /** One value per token. */
  values: ArrayLike<number>;
  /** The value of the darkest shade. */
  max: number;
  /** Token that "line" stands in the middle; without it, text flows. */
  peak?: number;
  line?: boolean;
  spaces?: boolean;
  /** Said of the whole context to those who can't see it. */
  name: string;
  /** Values below zero are shaded blue. */
  signed?: boolean;
  /** More about one token, beside its value. */
  detail?: (token: number) => string;
  /** A unit's words for its value, else the number. */
  say?: (value: number) => string;
}

const WINDOW = 26; // units on each side that a line can show at most

export function Context({ run, values, max, peak = 0, line, spaces, name, signed, detail, say = num }: ContextProps) {
  const all = useMemo(() => units(run), [run]);
  const [cursor, setCursor] = useState(-1);
  const element = useRef<HTMLParagraphElement>(null);
  const at = useMemo(() => Math.max(0, all.findLastIndex((unit) => unit.from <= peak)), [all, peak]);

  const tell = (index: number, anchor: Element) => {
    const unit = all[index];
    if (!unit) return;
    const value = signed ? (values[unit.from] ?? 0) : unitValue(unit, values);
    showTip(anchor, unit.text, say(value), detail?.(unit.from) ?? "");
    return `${quoted(unit.text)} ${say(value)}`;
  };
  const hover = (event: Event) => {
    const target = (event.target as Element).closest("[data-u]");
    if (target) tell(Number(target.getAttribute("data-u")), target);
    else hideTip();
  };
  const press = (event: KeyboardEvent) => {
    const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = cursor < 0 ? at : Math.min(all.length - 1, Math.max(0, cursor + step));
    setCursor(next);
    const anchor = element.current?.querySelector(`[data-u="${next}"]`);
    if (anchor) speak(tell(next, anchor) ?? "");
  };
  const leave = () => {
    setCursor(-1);
    hideTip();
  };

  const draw = (unit: Unit, index: number) => {
    const value = signed ? (values[unit.from] ?? 0) : unitValue(unit, values);
    const step = shade(Math.abs(value), max);
    const tone = step ? ` ${value < 0 ? "b" : "a"}${step}` : "";
    return (
      <span class={`u${tone}${unit.special ? " special" : ""}${index === cursor ? " cursor" : ""}`} data-u={index} key={index}>
        <Shown text={unit.text} spaces={spaces ?? false} />
      </span>
    );
  };
  const handlers = { onMouseOver: hover, onMouseLeave: hideTip, onKeyDown: press, onBlur: leave };
  return (
    <p ref={element} class="ctx" tabIndex={0} role="group" aria-label={`${name}. Arrow keys read each token.`} data-arrows {...handlers}>
      {line ? (
        <>
          <span class="before">
            <span>{all.slice(Math.max(0, at - WINDOW), at).map((unit, i) => draw(unit, Math.max(0, at - WINDOW) + i))}</span>
          </span>
          <span class="at">{all[at] && draw(all[at], at)}</span>
          <span class="after">{all.slice(at + 1, at + 1 + WINDOW).map((unit, i) => draw(unit, at + 1 + i))}</span>
        </>
      ) : (
        all.map(draw)
      )}
    </p>
  );
}

/** The key to the shades. */
export function Ramp({ max, signed, unit = "activation" }: { max: number; signed?: boolean; unit?: string }) {
  const up = [1, 3, 5, 7, 9, 10];
  return (
    <span class="ramp">
      <span>{signed ? num(-max) : "0"}</span>
      <span class="steps" aria-hidden="true">
        {signed && up.toReversed().map((step) => <i class={`b${step}`} key={`b${step}`} />)}
        {up.map((step) => <i class={`a${step}`} key={step} />)}
      </span>
      <span>
        {num(max)} {unit}
      </span>
    </span>
  );
}
