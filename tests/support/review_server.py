"""A server of the review's page on a thread of its own, and texts that try to become script on it."""

import contextlib
import socket
import threading
import time

from rlresearch.review.cli import parse
from rlresearch.review.web import json_answers, serve

ADDRESS = "127.0.0.1"
TOKEN = "t" * 43


@contextlib.contextmanager
def served(folder, names=serve.NAMES, bind=ADDRESS):
    """A server of its own on a free port."""
    arguments = parse("serve", ["--runs-dir", str(folder), "--no-cache"])
    with socket.create_server((bind, 0)) as listener:
        server = serve.server(serve.application(json_answers.Source(arguments), arguments.title, TOKEN, names))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


# What each would do if it were taken for HTML or script: change the title of the page.
INJECTIONS = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg/onload=document.title='owned'>",
    "<svg><script>document.title='owned'</script></svg>",
    "<!--<script>document.title='owned'</script>",
    "--><script>document.title='owned'</script>",
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\">",
    "<a href=\"javascript:document.title='owned'\">x</a>",
    "javascript:document.title='owned'",
    "'><script>document.title='owned'</script>",
    "\"><script>document.title='owned'</script>",
    "\" onmouseover=\"document.title='owned'",
    "' autofocus onfocus=document.title='owned' '",
    "<body onload=document.title='owned'>",
    "<details open ontoggle=document.title='owned'>",
    "<input autofocus onfocus=document.title='owned'>",
    "<style>@import 'http://127.0.0.1:9/x'</style>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x>",
    "<base href=http://127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<object data=\"javascript:document.title='owned'\">",
    "<embed src=\"javascript:document.title='owned'\">",
    "<form action=http://127.0.0.1:9/><button>x</button></form>",
    "<math><mtext><script>document.title='owned'</script></mtext></math>",
    "<template><script>document.title='owned'</script></template>",
    "<noscript><p title=\"</noscript><img src=x onerror=document.title='owned'>\">",
    "<textarea></textarea><script>document.title='owned'</script>",
    "<title></title><script>document.title='owned'</script>",
    "<xmp></xmp><script>document.title='owned'</script>",
    "${document.title='owned'}",
    "{{constructor.constructor('document.title=1')()}}",
    "\\u003cscript\\u003edocument.title='owned'\\u003c/script\\u003e",
    "&lt;script&gt;document.title='owned'&lt;/script&gt;",
    "&#60;script&#62;document.title='owned'&#60;/script&#62;",
    "<scr<script>ipt>document.title='owned'</scr</script>ipt>",
    "<SCRIPT SRC=http://127.0.0.1:9/x></SCRIPT>",
    "<script\x0ctype=text/javascript>document.title='owned'</script>",
    "<b>bold</b><i>italic</i>",
    "@DATA@ @SCRIPT@ @POLICY@",
    "__proto__",
    "constructor",
    "%3Cscript%3Edocument.title='owned'%3C/script%3E",
    "\u2028document.title='owned'\u2029",
    "\ufeff<script>document.title='owned'</script>",
    "+ADw-script+AD4-document.title='owned'+ADw-/script+AD4-",
    "<br><a xlink:href=\"javascript:document.title='owned'\">y</a>",
    '<span style="background:url(http://127.0.0.1:9/x)">z</span>',
    "data:text/html,<script>document.title='owned'</script>",
    "]]><script>document.title='owned'</script>",
]
