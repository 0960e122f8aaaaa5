"""The mod that lets a ClientApp of Flower take part as it is: it sees full models, and messages carry what is due.

==========================  ===========================================================================================
message                     what the mod does
==========================  ===========================================================================================
of another strategy         nothing: the ClientApp gets it as it is
a question                  replies which client this node serves, without the ClientApp
"train"                     puts the layers that arrived into the model in the client's file, calls the ClientApp with
                            the full model, keeps the trained one, and replies with the layers that are due; the
                            ClientApp's other records, such as its metrics, go along
"evaluate"                  calls the ClientApp with the full global model: the values that were received last, and
                            those that arrived; its reply goes back as it is
==========================  ===========================================================================================

The file and its rules are those of :mod:`fedlama.flower.client.respond`: the trained model is on the disk before the
reply is sent, so a round is never trained twice, and a server that continues gets the same reply again.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedlama.choices.codecs import full_codec
from fedlama.core import wire
from fedlama.engines.api import Values
from fedlama.errors import DataError, FedlamaError
from fedlama.flower.client.respond import respond
from fedlama.flower.client.state import exclusive, forget_old, load, read_tensors, write_tensors
from fedlama.flower.dropin.layout import Layout
from fedlama.flower.dropin.trainer import AppTrainer, metrics_from
from fedlama.flower.payloads import decode_message
from fedlama.flower.protocol import NEVER, ClientInfo, TrainReply, fingerprint
from fedlama.flower.settings import client_number, state_folder
from fedlama.flower.transport import (
    check_info_request,
    flower_module,
    info_records,
    read_request,
    refusal_records,
    reply_records,
)

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict

APP = "app"
"""The record with the name under which the ClientApp expects its arrays, and with the layout where all layers come."""
OURS = ("fedlama", "request", "payloads", APP)
"""The records of a message that the ClientApp does not see."""
_RUN = re.compile(r"[0-9a-f]{1,64}(\.[0-9a-f]{1,64})?")
_LOG = logging.getLogger("fedlama.flower")
Call = Callable[[Any, Any], Any]
"""Calls the next mod, or the ClientApp: ``call(message, context)`` returns its reply."""


def fedlama_mod(message: Message, context: Context, call_next: Call) -> Message:
    """Serve a ClientApp to :class:`~fedlama.flower.FedLAMAStrategy`; for ``ClientApp(mods=[fedlama_mod])``.

    Mods after it, such as Flower's `LocalDpMod`, see full models, as the ClientApp does.

    Args:
        message: The message.
        context: The node's context; its ``--node-config`` needs ``partition-id``, the client's number.
        call_next: Calls the next mod, or the ClientApp.

    Returns:
        The reply.
    """
    records = message.content
    if "fedlama" not in records:
        return call_next(message, context)
    try:
        check_info_request(records)
        client = client_number(context.node_config)
        if "request" not in records:
            return _reply(message, info_records(ClientInfo(client, 1, has_test_set=True)))
        node = _Node(message, context, call_next, client)
        return node.evaluated() if message.metadata.message_type.startswith("evaluate") else node.trained()
    except _ErrorReplyError as error:
        return error.message
    except FedlamaError as error:
        _LOG.error("this node cannot take part: %s", error)
        return _reply(message, refusal_records(str(error)))


class _ErrorReplyError(Exception):
    """The ClientApp, or a mod before it, replied with an error, which goes to the server as it is."""

    def __init__(self, message: Message) -> None:
        super().__init__()
        self.message = message


class _Node:
    """One message to one client.

    Args:
        message: The message, with a request.
        context: The node's context.
        call_next: Calls the next mod, or the ClientApp.
        client: The client's number, which names its file.
    """

    def __init__(self, message: Message, context: Context, call_next: Call, client: int) -> None:
        self._message, self._context, self._call_next = message, context, call_next
        self._request = read_request(message.content)
        run = self._request.run
        if not _RUN.fullmatch(run):
            raise DataError("the run's name is not hexadecimal; install the same version of fedlama on both sides")
        self._root = state_folder(context.node_config, context.run_config)
        folder = self._root / f"app-{run.partition('.')[0]}"
        self._file, self._layout_file = (
            folder / f"client-{client}.safetensors",
            folder / f"client-{client}.layout.safetensors",
        )

    def trained(self) -> Message:
        """Return the reply to a training request."""
        request, layout = self._request, self._layout()
        if layout is None:
            return self._stale()
        trainer = AppTrainer(layout, self._called)
        reply = respond(request, trainer, self._file)
        others = trainer.others
        if reply.status == "done" and others is None:  # trained before
            state = load(self._file)
            others = {} if state is None else metrics_from(state.optimizer_state)
        if request.answered_round == NEVER:  # rare, so most rounds do not pay for it
            forget_old(self._root)
        records = reply_records(reply)
        for name, record in (others or {}).items():
            records[name] = record
        return _reply(self._message, records)

    def evaluated(self) -> Message:
        """Return the ClientApp's reply to a message for evaluation, which has seen the global model."""
        request, layout = self._request, self._layout()
        if layout is None:
            return self._stale()
        held: Mapping[str, Tensor] = {}
        if request.answered_round != NEVER:
            with exclusive(self._file):
                state = load(self._file)
            if state is None or state.run != request.run or state.round_index < request.answered_round:
                return self._stale()
            held = state.reference
        message = wire.unpack(request.payload)
        received = decode_message(message, tuple(message.payloads), layout.layers, full_codec(layout.codec))
        values = {**held, **{name: value for each in received.values() for name, value in each.items()}}
        reply: Message = self._call_next(self._inner(layout, values), self._context)
        return reply

    def _stale(self) -> Message:
        """Return the reply of a client that needs the full model."""
        request = self._request
        return _reply(self._message, reply_records(TrainReply("stale", request.round_index, request.client, NEVER)))

    def _layout(self) -> Layout | None:
        """Return the layers of the message, or those that came with the full model; None where they are lost."""
        record = self._message.content.config_records[APP]
        if "layout" in record:
            text = str(record["layout"])
            layout = Layout.from_json(text)
            if self._request.steps:  # an evaluation leaves nothing behind
                write_tensors({"layout": torch.zeros(0)}, {"layout": text}, self._layout_file)
        else:
            try:
                layout = Layout.from_json(read_tensors(self._layout_file)[1]["layout"])
            except Exception:  # whatever is wrong with the file, the server then sends all again
                return None
        return layout if fingerprint(layout.layers, layout.codec) == self._request.fingerprint else None

    def _inner(self, layout: Layout, values: Mapping[str, Tensor]) -> Message:
        """Return the message that the ClientApp sees."""
        app = flower_module("app")
        arrays = {name: app.Array(value.numpy()) for name, value in layout.whole(values).items()}
        content = {str(self._message.content.config_records[APP]["arrays"]): app.ArrayRecord(arrays)}
        content |= {name: record for name, record in self._message.content.items() if name not in OURS}
        message = copy.copy(self._message)
        message.content = app.RecordDict(content)
        return message

    def _called(self, layout: Layout, values: Values) -> tuple[Values, dict[str, Any]]:
        """Call the ClientApp with a full model; return the trained one, and its other records.

        Raises:
            DataError: Its reply does not hold the same arrays.
        """
        reply: Message = self._call_next(self._inner(layout, values), self._context)
        if reply.has_error():
            raise _ErrorReplyError(reply)
        records = list(reply.content.array_records.values())
        if len(records) != 1 or set(records[0]) != set(layout.names):
            raise DataError(
                f"the ClientApp replied with {len(records)} records of arrays, expected one with the names that it was "
                "sent; return the model's whole state dict"
            )
        trained = {}
        for spec in (spec for layer in layout.layers for spec in layer.tensors):
            value = torch.from_numpy(records[0][spec.name].numpy().copy())
            if (tuple(value.shape), value.dtype) != (spec.shape, spec.dtype):
                raise DataError(
                    f"the ClientApp replied with {value.dtype} {tuple(value.shape)} for {spec.name!r}, expected "
                    f"{spec.dtype} {spec.shape}; return arrays of the types that it was sent"
                )
            trained[spec.name] = value
        names = reply.content.array_records.keys()
        return trained, {name: record for name, record in reply.content.items() if name not in names}


def _reply(message: Message, records: RecordDict) -> Message:
    reply: Message = flower_module("app").Message(records, reply_to=message)
    return reply
