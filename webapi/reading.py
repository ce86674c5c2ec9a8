"""Reading models: the ledger first, the repository after it, joined by `views`.

In this order a model is never shown as being deleted because it is new: the repository that is read is at least as
new as what the ledger knows of it.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.core.desired import refused_by_mode
from reconciler.core.entities import SpecFile, Tree
from reconciler.spec import ServingSpec, SpecRejected, parse
from webapi.parts import Parts
from webapi.spec_reader import FileDamagedError
from webapi.views import Model, joined


def all_models(parts: Parts, user_id: str | None) -> tuple[list[Model], Tree]:
    """Give a user's models (everybody's for None) in no order, and the tree that they were read from.

    Specs are not read: `with_spec` does that for those that are shown. Raises Unreachable.
    """
    records = parts.reader.models(user_id)
    tree = parts.store.read()
    files = {key: file for key, file in tree.files.items() if user_id in {None, file.identity.user_id}}
    return joined(files, records), tree


def one_model(parts: Parts, model_key: str) -> Model | None:
    """Give one model with its spec; None where neither git nor the ledger knows the key. Raises Unreachable."""
    if not (model_key.isascii() and model_key.isprintable()):  # PostgreSQL takes no NUL
        return None
    record = parts.reader.model(model_key)
    file = parts.store.read().files.get(model_key)
    if file is None and record is None:
        return None
    return with_spec(parts, Model(file, record))


def with_spec(parts: Parts, model: Model) -> Model:
    """Read a model's file where the reconciler has not done so yet. Raises Unreachable.

    One that is damaged is shown so: it keeps no list and no detail from being shown.
    """
    if model.file is None or not model.is_ahead:
        return model
    try:
        return replace(model, spec=_spec(parts, model.file))
    except FileDamagedError as error:
        return replace(model, damaged=str(error))


def _spec(parts: Parts, file: SpecFile) -> ServingSpec | SpecRejected | None:
    if refused := refused_by_mode(file):
        return refused
    identity = file.identity
    data = parts.store.text(identity.path)
    if data is None:  # deleted since the tree was read
        return None
    return parse(data, owner=identity.user_id, limits=parts.settings.limits, suffix=identity.suffix)
