/** The shell: what is at the top of every page, which page the address asks for, and the keys that work everywhere. */
import { render } from "preact";
import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { api } from "./api";
import type { ModelStatus, Note, RunInfo } from "./api";
import { useKeys } from "./keys";
import { withLooks } from "./looks";
import { ComparePage } from "./pages/compare";
import { GraphPageView, GraphsPage } from "./pages/graphs";
import { LatentPageView } from "./pages/latent";
import { LatentsPage } from "./pages/latents";
import { NotesPage } from "./pages/notes";
import { OverviewPage } from "./pages/overview";
import { SearchPage } from "./pages/search";
import { SteerPage } from "./pages/steer";
import { Await, Message } from "./parts/bits";
import { Help } from "./parts/help";
import { ExplanationLayer } from "./parts/term";
import { TipLayer, hideTip } from "./parts/tip";
import { Top } from "./parts/top";
import { followLinks, go, to, useRoute } from "./router";
import type { Route } from "./router";
import { SharedContext, firstSae, sameSae, sentence, useLoad, useShared } from "./state";
import type { Shared } from "./state";

function App() {
  const run = useLoad((signal) => api.run(signal).then(withLooks), []);
  return (
    <>
      <Await of={run}>{(value) => <Shell run={value} />}</Await>
      <TipLayer />
      <ExplanationLayer />
    </>
  );
}

function useModel(first: ModelStatus): [ModelStatus, () => void] {
  const [model, setModel] = useState(first);
  const [looks, setLooks] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    const look = () =>
      api.model(abort.signal).then(
        (status) => {
          setModel(status);
          if (status.state === "loading") timer = window.setTimeout(look, 700);
        },
        () => undefined, // the next call of the page itself tells what is wrong
      );
    if (looks > 0 || first.state === "loading") void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [looks, first.state]);
  return [model, useCallback(() => setLooks((n) => n + 1), [])];
}

/** What the notes file holds; nothing is taken for an empty note before it was read. */
function useNotes(): Pick<Shared, "notes" | "setNotes" | "notesState" | "readNotes"> {
  const [notes, setAll] = useState<Note[]>([]);
  const [notesState, setState] = useState<Shared["notesState"]>({ loaded: false, error: null });
  const written = useRef(0);
  const setNotes = useCallback((read: Note[]) => {
    written.current += 1;
    setAll(read);
    setState({ loaded: true, error: null });
  }, []);
  const readNotes = useCallback(() => {
    const before = written.current;
    api.notes().then(
      (read) => before === written.current && setNotes(read), // else a saved note's answer is newer
      (reason: unknown) => setState((old) => ({ ...old, error: sentence(reason) })),
    );
  }, []);
  useEffect(readNotes, []);
  return useMemo(() => ({ notes, setNotes, notesState, readNotes }), [notes, notesState]);
}

function Shell({ run }: { run: RunInfo }) {
  const route = useRoute();
  const [model, watchModel] = useModel(run.model);
  const notes = useNotes();
  const [help, setHelp] = useState(false);
  const main = useRef<HTMLElement>(null);
  const [page = "", site = "", name = ""] = route.parts;
  const address = { site, name };
  const [last, setLast] = useState(() => firstSae(run.saes));
  const named = run.saes.find((sae) => sameSae(sae, address));
  const sae = named ?? last;
  useEffect(() => {
    if (named) setLast(named);
  }, [named]);
  useEffect(() => {
    hideTip();
    scrollTo(0, 0);
    if (document.activeElement === document.body || !document.activeElement) main.current?.focus({ preventScroll: true });
  }, [page]);
  const shared = useMemo(
    () => sae && { run, sae, model, watchModel, ...notes },
    [run, sae, model, watchModel, notes],
  );
  useKeys({
    "?": () => setHelp(true),
    g: () => go(to.overview()),
    l: () => sae && go(to.latents(sae.site, sae.name)),
    r: () => sae && go(to.latent(sae.site, sae.name, Math.floor(Math.random() * sae.d_sae))),
    "/": () => {
      const box = document.querySelector<HTMLInputElement>("main [data-search]");
      if (box) box.focus();
      else if (sae) go(to.search(sae.site, sae.name));
    },
  });
  if (!shared) return <main><Message bad>This run has no trained SAEs yet.</Message></main>;
  return (
    <SharedContext.Provider value={shared}>
      <div onClick={followLinks}>
        <button type="button" class="skip" onClick={() => main.current?.focus()}>
          Skip to the content
        </button>
        <Top page={page} onHelp={() => setHelp(true)} />
        <main ref={main} tabIndex={-1}>
          <Page route={route} exists={named !== undefined} />
        </main>
      </div>
      <Help open={help} onClose={() => setHelp(false)} />
    </SharedContext.Provider>
  );
}

function Page({ route, exists }: { route: Route; exists: boolean }) {
  const { run, sae } = useShared();
  const [page, site, name, last] = route.parts;
  if (page === undefined) return <OverviewPage />;
  if (page === "compare") return <ComparePage query={route.query} />;
  if (page === "notes") return <NotesPage />;
  if (page === "graphs") return <GraphsPage />;
  if (page === "graph" && site) return <GraphPageView name={site} query={route.query} key={site} />;
  if (site !== undefined && !exists) {
    return <Missing>This run has no SAE {site}/{name}; choose one at the top of the page.</Missing>;
  }
  if (page === "search") return <SearchPage query={route.query} key={`${sae.site}/${sae.name}`} />;
  if (page === "latents") return <LatentsPage query={route.query} key={`${sae.site}/${sae.name}`} />;
  if (page === "steer" && run.unit === "rows") {
    return <Missing>This run was trained on rows of your own, so there is no language model to steer.</Missing>;
  }
  if (page === "steer" && sae.source_site) {
    return (
      <Missing>
        Steering edits one site, and a transcoder's latents read {sae.source_site} and write to {sae.site}; choose an SAE at the top
        of the page{run.has_graphs && <>, or edit the transcoder's latents in a <a href={to.graphs()}>graph</a></>}.
      </Missing>
    );
  }
  if (page === "steer") return <SteerPage query={route.query} key={`${sae.site}/${sae.name}`} />;
  if (page === "latent") {
    const latent = Number(last);
    if (!Number.isInteger(latent) || latent < 0 || latent >= sae.d_sae) {
      return <Missing>There is no latent {last}: this SAE has latents 0 to {sae.d_sae - 1}. Go on with <a href={to.latents(sae.site, sae.name)}>the list of them</a>.</Missing>;
    }
    return <LatentPageView latent={latent} query={route.query} />;
  }
  return <Missing>There is no page at this address. <a href={to.overview()}>Back to the overview</a></Missing>;
}

function Missing({ children }: { children: ComponentChildren }) {
  return (
    <div class="stack">
      <h1>Nothing here</h1>
      <Message bad>{children}</Message>
    </div>
  );
}

const root = document.getElementById("app");
if (root) render(<App />, root);
