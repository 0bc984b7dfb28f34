"""Names of the dialects and of what can be asked in each: the vocabulary that routes, requests and answers share."""

from __future__ import annotations

from enum import StrEnum


class Dialect(StrEnum):
    """How an upstream speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    OLLAMA = "ollama"
    RAW = "raw"


class Operation(StrEnum):
    """What a route asks of its upstream; decides how request, answer and stream are read."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    RESPONSES_COMPACT = "responses_compact"
    INPUT_TOKENS = "input_tokens"  # free: token counting of any dialect
    EMBEDDINGS = "embeddings"
    IMAGES_GENERATIONS = "images_generations"
    IMAGES_EDITS = "images_edits"
    TRANSCRIPTIONS = "transcriptions"
    SPEECH = "speech"
    REALTIME = "realtime"
    MESSAGES = "messages"
    GENERATE = "generate"  # Gemini generateContent
    STREAM_GENERATE = "stream_generate"  # Gemini streamGenerateContent
    EMBED = "embed"  # Gemini embedContent, batchEmbedContents
    OLLAMA_CHAT = "ollama_chat"
    OLLAMA_GENERATE = "ollama_generate"
    LISTING = "listing"  # free: GET of models
    RAW = "raw"


FREE_OPERATIONS = frozenset({Operation.INPUT_TOKENS, Operation.LISTING})
