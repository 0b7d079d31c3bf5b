"""The sections of the paper's studies: each answers its question with a figure, a table and what it cannot say."""
