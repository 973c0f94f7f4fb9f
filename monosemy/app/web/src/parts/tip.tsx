/** One floating note for all tokens, and one quiet voice for screen readers. */
import { useEffect, useState } from "preact/hooks";
import { Token } from "./token";

interface Tip {
  x: number;
  y: number;
  below: boolean;
  text: string;
  value: string;
  detail: string;
}

let set: (tip: Tip | null) => void = () => undefined;
let say: (words: string) => void = () => undefined;

export function showTip(anchor: Element, text: string, value: string, detail: string): void {
  const box = anchor.getClientRects()[0] ?? anchor.getBoundingClientRect();
  const below = box.top < 90;
  const x = Math.min(innerWidth - 130, Math.max(130, box.left + box.width / 2));
  set({ x, y: below ? box.bottom + 6 : box.top - 6, below, text, value, detail });
}
export const hideTip = (): void => set(null);
export const speak = (words: string): void => say(words);

export function TipLayer() {
  const [tip, setTip] = useState<Tip | null>(null);
  const [words, setWords] = useState("");
  useEffect(() => {
    set = setTip;
    say = setWords;
    addEventListener("scroll", hideTip, { passive: true });
    return () => removeEventListener("scroll", hideTip);
  }, []);
  return (
    <>
      <div class="sr" aria-live="polite">
        {words}
      </div>
      {tip && (
        <div
          class="tip"
          aria-hidden="true"
          style={{ left: `${tip.x}px`, top: `${tip.y}px`, transform: `translate(-50%, ${tip.below ? "0" : "-100%"})` }}
        >
          <Token text={tip.text} /> <b>{tip.value}</b>
          {tip.detail && <div class="dim">{tip.detail}</div>}
        </div>
      )}
    </>
  );
}
