"""Renders chat templates with sample conversations, as transformers would. `template_check` runs it.

A template is a program of somebody else's: it may run forever, or fill the memory. So this runs in a process
of its own, with limits, in jinja2's sandbox. It reads JSON from stdin (`{"path": [...], "templates": [...]}`)
and writes a line of JSON for each template: null, or what is wrong with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TextIO

MEMORY_LIMIT = 1 << 30
"""Bytes of address space."""

CPU_SECONDS = 5

MAX_TEXT = 1 << 24
"""Characters that a template may write."""

SAFE_VERSION = (3, 1, 6)
"""Of jinja2: older sandboxes have holes."""

MAX_MESSAGE = 500

USER = {"role": "user", "content": "Hello"}
ASSISTANT = {"role": "assistant", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Hello"}]}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
    },
}
DOCUMENT = {"title": "A", "text": "B", "contents": "B", "doc_id": 0}

CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [USER]},
    {"messages": [USER, ASSISTANT, USER]},
    {"messages": [SYSTEM, USER]},
    {"messages": [PARTS]},
    {"messages": [USER], "tools": [TOOL]},
    {"messages": [SYSTEM, USER], "tools": [TOOL], "documents": [DOCUMENT]},
    {"messages": [USER], "documents": [DOCUMENT]},
)
"""A template is in order if it can render one of these: many refuse some of them."""

TOKENS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}


def main() -> None:
    """Check the templates on stdin."""
    request = json.load(sys.stdin)
    sys.path.extend(request["path"])
    compile_template = _compiler()
    _limit()
    for template in request["templates"]:
        _say(sys.stdout, _fault(compile_template, template))


def _say(stream: TextIO, fault: str | None) -> None:
    stream.write(json.dumps(fault) + "\n")
    stream.flush()


def _fault(compile_template: Callable[[str], Any], template: str) -> str | None:
    """What is wrong with a template, None if it renders a conversation."""
    try:
        compiled = compile_template(template)
    except Exception as error:
        return _described("it does not compile", error)
    first: Exception | None = None
    for conversation in CONVERSATIONS:
        try:
            _render(compiled, conversation)
        except Exception as error:
            first = first or error
        else:
            return None
    return _described("it does not render", first)


def _render(compiled: Any, conversation: dict[str, Any]) -> None:
    n_characters = 0
    arguments = {"tools": None, "documents": None, **TOKENS, **conversation}
    for piece in compiled.generate(add_generation_prompt=True, **arguments):
        n_characters += len(piece)
        if n_characters > MAX_TEXT:
            raise OverflowError(f"it writes more than {MAX_TEXT} characters")


def _described(what: str, error: Exception | None) -> str:
    line = getattr(error, "lineno", None)
    where = f" in line {line}" if line else ""
    return f"{what}{where}: {type(error).__name__}: {error}"[:MAX_MESSAGE]


def _compiler() -> Callable[[str], Any]:
    """A function that compiles a template with all that transformers offers to one. Ends the process where
    jinja2 is too old.
    """
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdigit()) < SAFE_VERSION:
        raise SystemExit(3)

    class Generation(Extension):
        """`{% generation %}`, around what the model writes; here it means nothing."""

        tags = {"generation"}  # noqa: RUF012 - as the base class has it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: object) -> Iterator[str]:
        raise jinja2.TemplateError(str(message))

    def tojson(value: Any, **options: Any) -> str:
        kept = {key: options[key] for key in ("indent", "separators", "sort_keys") if key in options}
        return json.dumps(value, ensure_ascii=bool(options.get("ensure_ascii", False)), **kept)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    compile_template: Callable[[str], Any] = environment.from_string
    return compile_template


def _limit() -> None:
    """Limit memory and time, where the system can."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY_LIMIT), (resource.RLIMIT_CPU, CPU_SECONDS)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    main()
