"""The look of the report: one HTML page with its style inside, for screens of any width."""

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fcfbf8; --ink: #1b1d22;
  --quiet: #646873; --line: #e4e1d8; --accent: #0b7a70; --wash: #eef5f2; }
@media (prefers-color-scheme: dark) { :root { --paper: #131519; --ink: #ebe9e3;
  --quiet: #9a9fab; --line: #2d3138; --accent: #52d3c0; --wash: #17282a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: clamp(28px, 7vw, 88px) clamp(16px, 4vw, 40px); }
h1, h2 { font-family: "Iowan Old Style", Charter, "Palatino Linotype", Palatino, Georgia, serif;
  font-weight: 600; letter-spacing: -0.015em; text-wrap: balance; }
h1 { font-size: clamp(36px, 7.4vw, 72px); line-height: 1.04; margin: 0 0 0.5em; max-width: 15em; }
h2 { font-size: clamp(25px, 3.6vw, 34px); line-height: 1.15; margin: 0 0 0.35em; }
h3 { font-size: 17px; margin: 2.4em 0 0.8em; }
section { margin-top: clamp(56px, 9vw, 104px); }
p { max-width: 42em; margin: 0 0 1em; text-wrap: pretty; }
.eyebrow { color: var(--accent); font-size: 14px; font-weight: 600; letter-spacing: 0.06em;
  margin-bottom: 1.4em; }
.lead { font-size: clamp(18px, 2.3vw, 22px); line-height: 1.5; }
.quiet, caption, figcaption, th small, td small { color: var(--quiet); }
.quiet { font-size: 15px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 26px 32px; margin: 2.4em 0 0; padding: 22px 0; border-block: 1px solid var(--line); }
.facts dt { color: var(--quiet); font-size: 15px; }
.facts dd { margin: 0; font-size: clamp(26px, 4vw, 38px); line-height: 1.2; font-weight: 600;
  letter-spacing: -0.02em; }
.facts small { display: block; font-size: 14px; font-weight: 400; letter-spacing: 0;
  color: var(--quiet); margin-top: 4px; }
.images { display: grid; gap: clamp(5px, 1.1vw, 12px); margin-top: 1.6em; }
.images b { font-size: clamp(11px, 1.5vw, 15px); line-height: 1.25; align-self: end;
  font-weight: 600; overflow-wrap: anywhere; hyphens: auto; }
.images small { display: block; font-size: 0.92em; font-weight: 400; color: var(--quiet); }
.images p { grid-column: 1 / -1; margin: clamp(10px, 2vw, 20px) 0 0; color: var(--quiet);
  font-size: 15px; line-height: 1.35; max-width: none; }
.images img { width: 100%; display: block; border-radius: clamp(4px, 0.8vw, 9px); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr));
  gap: 40px clamp(24px, 4vw, 56px); margin: 2em 0; }
figure { margin: 0; }
figcaption { font-size: 15px; line-height: 1.45; }
figcaption b { display: block; color: var(--ink); font-size: 17px; font-weight: 600; }
figure svg { width: 100%; height: auto; display: block; margin-top: 8px; }
figure svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; margin: 2em 0 1em; }
table { border-collapse: collapse; width: 100%; font-size: 16px; line-height: 1.3; }
th, td { text-align: right; padding: 11px 0 11px 22px; border-bottom: 1px solid var(--line);
  vertical-align: top; white-space: nowrap; }
thead th { vertical-align: bottom; font-size: 14px; font-weight: 600; white-space: normal; }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--paper); padding-right: 12px; font-weight: 600;
  white-space: normal; min-width: 8.5em; }
td small, th small { display: block; font-size: 13px; font-weight: 400; margin-top: 2px; }
details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: 13px 0; font-weight: 600; }
details > :last-child { margin-bottom: 20px; }
pre, code { font: 13.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--wash); padding: 16px 18px; border-radius: 8px; overflow-x: auto;
  margin: 0; }
dl.plain { display: grid; grid-template-columns: minmax(7em, auto) 1fr; gap: 8px 28px;
  margin: 0 0 2em; }
dl.plain dt { color: var(--quiet); }
dl.plain dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) { dl.plain { grid-template-columns: 1fr; gap: 0; }
  dl.plain dd { margin-bottom: 14px; } th, td { padding-left: 18px; } }
@media print { details > * { display: block; } }
"""


def page(title: str, *parts: str) -> str:
    """Return the whole HTML document; `parts` are HTML, the title is text."""
    return f"""<!doctype html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{"".join(parts)}
</main>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """Return a titled section, or nothing where it would be empty."""
    body = "".join(parts)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>\n" if body else ""


def figure(svg: str, title: str, words: str) -> str:
    """Return a plot under its title and caption."""
    caption = f"<figcaption><b>{escape(title)}</b>{escape(words)}</figcaption>"
    return f"<figure>{caption}{svg}</figure>\n" if svg else ""


def pairs(entries: dict[str, str]) -> str:
    """Return names and what they mean, as a list of definitions."""
    items = (f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in entries.items())
    return f'<dl class="plain">{"".join(items)}</dl>\n'


def folded(title: str, body: str) -> str:
    """Return a part that the reader may unfold."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>\n"
