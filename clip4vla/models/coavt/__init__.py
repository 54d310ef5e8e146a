"""CoAVT: a joint audio-visual encoder, a text encoder and a query encoder between them."""
