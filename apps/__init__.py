"""What runs inside Ray: the model server, the chat, the weights. Serve configs name the modules of this package."""
