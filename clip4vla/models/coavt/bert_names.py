"""Names of BERT's weights, and of LAVIS's query former around it, in a CoAVT."""

import re

BERT = re.compile(r"^(?:Qformer\.)?(?:bert\.)?(?=embeddings\.|encoder\.|pooler\.|cls\.)")
RULES = (  # in this order
    (r"\.gamma$", ".weight"),  # of LayerNorms in old files
    (r"\.beta$", ".bias"),
    (r"^embeddings\.word_embeddings\.", "query.words."),
    (r"^embeddings\.position_embeddings\.", "query.positions."),
    (r"^embeddings\.LayerNorm\.", "query.norm."),
    (r"^encoder\.layer\.", "query.layers."),
    (r"\.attention\.self\.", "."),
    (r"\.attention\.output\.dense\.", ".output."),
    (r"\.attention\.output\.LayerNorm\.", ".output_norm."),
    (r"\.crossattention\.self\.", ".cross."),
    (r"\.crossattention\.output\.dense\.", ".cross.output."),
    (r"\.crossattention\.output\.LayerNorm\.", ".cross.output_norm."),
    (r"\.intermediate\.dense\.", ".widen."),
    (r"\.output\.dense\.", ".narrow."),
    (r"\.output\.LayerNorm\.", ".norm."),
    (r"\.intermediate_query\.dense\.", ".query_feed.widen."),
    (r"\.output_query\.dense\.", ".query_feed.narrow."),
    (r"\.output_query\.LayerNorm\.", ".query_feed.norm."),
    (r"^cls\.predictions\.transform\.dense\.", "language.dense."),
    (r"^cls\.predictions\.transform\.LayerNorm\.", "language.norm."),
    (r"^cls\.predictions\.bias$", "language.bias"),
    (r"^query_tokens$", "query.queries"),
    (r"^ln_vision\.", "query.encoder_norm."),
    (r"^vision_proj\.", "query_proj."),
    (r"^itm_head\.", "matching."),
    (r"^temp$", "temperature"),
)


def our_name(name: str) -> str:
    """Return the name of a tensor in a CoAVT; one that it lacks is hardly changed."""
    name = BERT.sub("", name)
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name
