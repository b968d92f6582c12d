"""Jupyter server's extension: registers the hook that keeps dead widgets out of saved notebooks."""


def _jupyter_server_extension_points() -> list[dict]:
    return [{"module": "lossbook._jupyter"}]


def _load_jupyter_server_extension(server) -> None:
    from lossbook._jupyter.hooks import pre_save_hook

    server.contents_manager.register_pre_save_hook(pre_save_hook)
