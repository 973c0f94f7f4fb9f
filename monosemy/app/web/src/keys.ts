/** Keys that work anywhere outside text fields; a page adds its own. */
import { useEffect, useRef } from "preact/hooks";

/** What a key does; `false`: nothing here, so the browser may have it. */
export type Keys = Record<string, (event: KeyboardEvent) => void | boolean>;

const TYPING = "input:not([type=checkbox], [type=radio], [type=range], [type=button]), textarea, select, [contenteditable]";

/** Calls `keys[event.key]` unless something is being typed, a dialog is open or a control took the key itself. */
export function useKeys(keys: Keys): void {
  const current = useRef(keys);
  current.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target as Element | null;
      if (target?.closest(TYPING) || document.querySelector("dialog[open]")) return;
      if (event.key.startsWith("Arrow") && target?.closest("input, [data-arrows]")) return;
      const act = current.current[event.key];
      if (!act) return;
      if (act(event) !== false) event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

/** j and k go through the rows of a list from anywhere, the arrows from a row that has the focus: else they scroll. */
export const ROW_KEYS: Keys = {
  j: () => stepRow(1),
  k: () => stepRow(-1),
  ArrowDown: () => onRow() && stepRow(1),
  ArrowUp: () => onRow() && stepRow(-1),
};
const onRow = (): boolean => document.activeElement?.matches("main [data-row]") ?? false;

/** Moves the focus between the links marked `data-row`. */
export function stepRow(by: number): true {
  const rows = [...document.querySelectorAll<HTMLElement>("main [data-row]")];
  if (!rows.length) return true;
  const at = rows.indexOf(document.activeElement as HTMLElement);
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by));
  rows[next]?.focus();
  rows[next]?.scrollIntoView({ block: "nearest" });
  return true;
}
