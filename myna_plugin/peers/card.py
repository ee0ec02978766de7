"""What a peer is: where it comes from, under what licence, and what it needs to run here."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

from myna_plugin.common.errors import InputError
from myna_plugin.common.toolkits import import_toolkit

NO_COMMERCE = "not for commercial use"


class LicenceWarning(UserWarning):
    """Weights that may not be used for everything."""


class PeerError(InputError):
    """A peer that cannot be loaded; the message says what to do."""


@dataclass(frozen=True)
class Card:
    """A peer, in words.

    Attributes:
        name: its entry point.
        source: paper or code that it follows.
        rule: sample rate, layer and pooling.
        code_licence: of the code that runs.
        package: import name of a package that it needs; "" for none.
        install: what `pip install` is to be given for it.
        repository: of its weights, on the Hugging Face hub; "" for none.
        address: where its weights are, if not there: a file that the user fetches.
        weights_licence: of the weights; "" if it has none.
        commercial: whether that allows commercial use.
    """

    name: str
    source: str
    rule: str
    code_licence: str = "MIT"
    package: str = ""
    install: str = ""
    repository: str = ""
    address: str = ""
    weights_licence: str = ""
    commercial: bool = True

    @property
    def terms(self) -> str:
        """Licence of the weights, with a word where it forbids commerce; "" for no weights."""
        return f"{self.weights_licence}{'' if self.commercial else f', {NO_COMMERCE}'}"

    def needs(self) -> str:
        """What it lacks here, and how to get it, on one line; "" if it is ready.

        >>> Card("x", "", "", package="no_such", install="'no-such>=2'").needs()
        "needs no_such: pip install 'no-such>=2'"
        >>> Card("x", "", "", address="https://a/b.pt", weights_licence="MIT").needs()
        'needs --model FILE: https://a/b.pt (weights MIT)'
        """
        missing = []
        if self.package and importlib.util.find_spec(self.package) is None:
            missing.append(f"{self.package}: pip install {self.install}")
        if self.address:
            missing.append(f"--model FILE: {self.address}")
        if self.repository and not self._is_cached():
            missing.append(f"hf.co/{self.repository}: --model-options '{{\"download\": true}}'")
        terms = f" (weights {self.terms})" if self.terms else ""
        return f"needs {'; '.join(missing)}{terms}" if missing else terms.strip(" ()")

    def _is_cached(self) -> bool:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(self.repository, "config.json"), str)

    def require_package(self) -> None:
        """Import it, beside any build of torch.

        Raises:
            MissingPackageError: it is not installed.
        """
        import_toolkit(self.package, self.install, self.name)

    def tell_terms(self) -> None:
        """Warn, where the weights are not for commerce."""
        if not self.commercial:
            warnings.warn(
                f"the weights of {self.name} are under {self.terms}", LicenceWarning, stacklevel=3
            )


def refuse_weights(name: str, model_file_path: object) -> None:
    """Refuse a file for a peer that has no weights.

    Raises:
        PeerError: one was given.
    """
    if str(model_file_path):
        raise PeerError(f"{name} has no weights, got {str(model_file_path)!r}: leave out --model")
