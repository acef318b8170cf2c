"""Lets the API pages show the arguments of a class that is made by `__new__`, as tensors are."""

from typing import Any

import griffe


class SignatureOfNew(griffe.Extension):
    """Take `__new__` for `__init__` where a class has no `__init__`."""

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Run once for each class, after the package is read."""
        if "__new__" in cls.members and "__init__" not in cls.members:
            new = cls.members.pop("__new__")
            new.name = "__init__"
            new.docstring = None
            cls.members["__init__"] = new
