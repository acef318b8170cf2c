"""The demo page, `normalkit demo`: a photo in; its normals, a light to drag over it, and files of them out.

It needs Gradio, which comes with the extra `demo`. The page is served to this machine alone unless told otherwise,
loads nothing from elsewhere, and keeps no photo when it ends.
"""

from normalkit.demo.server import serve

__all__ = ["serve"]
