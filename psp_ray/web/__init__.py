"""The page on which people label: who may, who gets which image, what they said. Nothing here learns."""
