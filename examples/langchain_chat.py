"""A chain of LangChain: a prompt, the model, and its answer as text. Needs `pip install langchain-openai`."""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import OpenAI

model = os.environ.get("MODEL") or OpenAI().models.list().data[0].id
prompt = ChatPromptTemplate.from_messages([("system", "Answer in one sentence, for {reader}."), ("human", "What is {thing}?")])
chain = prompt | ChatOpenAI(model=model, max_tokens=60, temperature=0) | StrOutputParser()

print(chain.invoke({"reader": "a child", "thing": "a supercomputer"}))
