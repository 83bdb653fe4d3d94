"""CONTRIBUTING.md, which lies outside of docs/, as a page of the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "CONTRIBUTING.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    text = (Path(config.config_file_path).parents[1] / PAGE).read_text(encoding="utf-8")
    files.append(File.generated(config, PAGE, content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **unused: object) -> str:
    return markdown.replace(f"](../{PAGE})", f"]({PAGE})")
