"""What a browser did while a test used it."""

from typing import Any

from playwright.sync_api import BrowserContext, Page


class Watch:
    """What a page did that it should not: dialogs, errors, and whom it asked."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []

    def on(self, context: BrowserContext) -> None:
        """From now on, for every page of the context."""
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("page", self._page)

    def _page(self, page: Page) -> None:
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dialog)

    def _dialog(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def strangers(self, origin: str) -> list[str]:
        """Requests to others than the server."""
        return [url for url in self.requests if not url.startswith(f"{origin}/")]
