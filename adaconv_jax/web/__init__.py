"""The page in a browser: `adaconv web`.

`work` makes pictures and knows nothing of a browser; `temporary` bounds what is on the disk; `page`
is the page itself, and the only module that needs Gradio (`pip install 'adaconv_jax[web]'`).
"""
