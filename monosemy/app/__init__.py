"""The browser: a local server over a run folder, and the page it serves (web/, built into static/)."""
