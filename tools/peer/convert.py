"""llama.cpp's convert_hf_to_gguf.py, with its look-up of known tokenizers replaced (run by the peer's
Python).

convert.py LLAMA_CPP_DIR PRE_TOKENIZER ARGUMENTS...    PRE_TOKENIZER: the name that the look-up returns, or
"-" for the look-up as it is
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    llama_cpp, pre, *arguments = sys.argv[1:]
    script = Path(llama_cpp) / "convert_hf_to_gguf.py"
    sys.path.insert(0, llama_cpp)
    if pre != "-":
        from conversion.base import TextModel

        TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
