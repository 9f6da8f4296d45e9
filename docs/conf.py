"""How Sphinx makes the site of these documents: ``make docs``."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "extensions"), str(Path(__file__).parent.parent)]

from relayd import __version__  # noqa: E402

project = "relayd"
author = copyright = "relayd contributors"
version = release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx_copybutton", "generated"]
#: Read by themselves at times: a name in backquotes is a link where there is something to link to.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"
#: Short ones, as in the source.
add_module_names = False
python_use_unqualified_type_names = True
#: Most blocks without a language are output, settings or pictures.
highlight_language = "none"
#: ``--max-queue`` stays as it is typed.
smartquotes = False
#: Of a block with prompts, the copy button takes the commands without what they print.
copybutton_prompt_text = "[$>] "
copybutton_prompt_is_regexp = True
copybutton_copy_empty_lines = False
copybutton_line_continuation_character = "\\"
copybutton_here_doc_delimiter = "END"
exclude_patterns = ["extensions", "_static"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["relayd.css"]
html_title = f"relayd {version}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
