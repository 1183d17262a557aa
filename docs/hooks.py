"""Pages that are not written by hand: one for each guide and each result; and folders in the navigation."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LISTED = ("guides/index.md", "mathematics/index.md", "results/index.md")
_SHOWN = (".png", ".svg")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and write out the navigation's folders."""
    root = Path(config.docs_dir).parent
    for file in [file for file in files if file.src_uri.startswith("guides/") and file.src_uri.endswith(".py")]:
        files.remove(file)
        uri = file.src_uri.removesuffix(".py") + ".md"
        files.append(File.generated(config, uri, content=guide(Path(config.docs_dir, file.src_uri))))
    for folder in results(root):
        files.append(File.generated(config, f"results/{folder.name}/index.md", abs_src_path=str(folder / "README.md")))
        for picture in sorted(path for path in folder.iterdir() if path.suffix in _SHOWN):
            files.append(File.generated(config, f"results/{folder.name}/{picture.name}", abs_src_path=str(picture)))
    config.nav = _expanded(config.nav, files)
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Below the text of a list's page: what there is, each with its title."""
    if page.file.src_uri not in _LISTED:
        return markdown
    pages = [uri for uri in _pages(files, page.file.src_uri.removesuffix("index.md")) if uri != page.file.src_uri]
    titles = {uri: _title(files.src_uris[uri]) for uri in pages}
    folder = page.file.src_uri.removesuffix("index.md")
    items = [f"- [{titles[uri]}]({uri.removeprefix(folder)})" for uri in pages]
    return "\n".join([markdown.rstrip(), "", *items, ""])


def guide(path: Path) -> str:
    """A script as a page: its docstring's first line is the title, the rest the text, and then the code."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, _, text = (ast.get_docstring(tree) or path.stem).partition("\n")
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno :]).strip()
    return f"# {title.rstrip('.')}\n{text}\n\n```python\n{code}\n```\n\nRun it: `python docs/guides/{path.name}`\n"


def results(root: Path) -> list[Path]:
    """The folder of each experiment that has a page."""
    return sorted(page.parent for page in root.glob("experiments/results/*/README.md"))


def _expanded(target: Any, files: Files) -> Any:
    if isinstance(target, list):
        return [_expanded(entry, files) for entry in target]
    if isinstance(target, dict):
        return {title: _expanded(entry, files) for title, entry in target.items()}
    return _pages(files, target) if target.endswith("/") else target


def _pages(files: Files, folder: str) -> list[str]:
    """The pages of a folder, its index first, then by title."""
    uris = [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith(folder)]
    return sorted(uris, key=lambda uri: (uri != f"{folder}index.md", _title(files.src_uris[uri]).lower()))


def _title(file: File) -> str:
    first = file.content_string.lstrip().split("\n", 1)[0]
    return first.removeprefix("# ").strip()
