/** Addresses: the whole view state is in the path and the query, so that every view is a permalink. */
import { useEffect, useState } from "preact/hooks";
import { remembered } from "./state";

export interface Route {
  /** Decoded parts of the path. */
  parts: string[];
  query: URLSearchParams;
}

const CHANGED = "monosemy:route";

function read(): Route {
  return {
    parts: location.pathname.split("/").filter(Boolean).map(decode),
    query: new URLSearchParams(location.search),
  };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray "%": shown as it stands, and no such page is found
  }
}

export function useRoute(): Route {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const update = () => setRoute(read());
    addEventListener("popstate", update);
    addEventListener(CHANGED, update);
    return () => {
      removeEventListener("popstate", update);
      removeEventListener(CHANGED, update);
    };
  }, []);
  return route;
}

/** Goes to an address within these pages; `replace` keeps the history as long as it is. */
export function go(address: string, replace = false): void {
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  dispatchEvent(new Event(CHANGED));
}

/** Changes some values of the query; null or "" removes one. */
export function setQuery(values: Record<string, string | number | boolean | null>, replace = true): void {
  const query = new URLSearchParams(location.search);
  for (const [key, value] of Object.entries(values)) {
    if (value === null || value === "" || value === false) query.delete(key);
    else query.set(key, value === true ? "1" : `${value}`);
  }
  const text = query.toString();
  go(location.pathname + (text ? `?${text}` : ""), replace);
}

/** Links within the pages change the view without loading the document anew. */
export function followLinks(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = (event.target as Element | null)?.closest("a");
  const href = link?.getAttribute("href"); // by attribute: in a drawing `link.href` is no text
  if (!link || !href || link.getAttribute("target") || link.hasAttribute("download")) return;
  const address = new URL(href, location.href);
  if (address.origin !== location.origin || /^\/(api|static|report)(\/|$)/.test(address.pathname)) return;
  event.preventDefault();
  go(address.pathname + address.search);
}

/** An address without the choice means lines: so that it shows the same to everyone. */
function contextChoice(): Record<string, string> {
  const ctx = remembered("contexts") ?? (innerWidth < 720 ? "passage" : "line");
  return ctx === "line" ? {} : { ctx };
}

const path = (...parts: (string | number)[]): string => `/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

/** The addresses of the pages. */
export const to = {
  overview: () => "/",
  latents: (site: string, name: string, values: Record<string, string> = {}) => path("latents", site, name) + suffix(values),
  /** With `query` as it stands, else with this browser's choice of how contexts are shown. */
  latent: (site: string, name: string, latent: number, query?: string) =>
    path("latent", site, name, latent) + (query ?? suffix(contextChoice())),
  search: (site: string, name: string, values: Record<string, string> = {}) => path("search", site, name) + suffix(values),
  compare: (values: Record<string, string> = {}) => path("compare") + suffix(values),
  steer: (site: string, name: string, values: Record<string, string> = {}) => path("steer", site, name) + suffix(values),
  graphs: () => path("graphs"),
  graph: (name: string) => path("graph", name),
  notes: () => path("notes"),
};

function suffix(values: Record<string, string>): string {
  const text = new URLSearchParams(values).toString();
  return text ? `?${text}` : "";
}
