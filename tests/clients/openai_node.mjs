// OpenAI's own client for Node.

import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.MODEL;
const client = new OpenAI({ apiKey: "none", maxRetries: 0, timeout: 60_000 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const ask = { model, messages, temperature: 0, max_tokens: 24 };
const schema = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "London"] },
    unit: { type: "string", enum: ["celsius", "fahrenheit"] },
  },
  required: ["city", "unit"],
  additionalProperties: false,
};
const tools = [
  {
    type: "function",
    function: { name: "get_weather", description: "The weather.", parameters: schema, strict: true },
  },
];
const forced = {
  ...ask,
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
  tools,
  tool_choice: "required",
  parallel_tool_calls: false,
  max_tokens: 400,
};

// What the server says without any client.
async function plainAnswer() {
  const headers = { "content-type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(ask) };
  const answer = await fetch(`${process.env.OPENAI_BASE_URL}/chat/completions`, options);
  return (await answer.json()).choices[0].message.content;
}

function assertWeather(text) {
  const given = JSON.parse(text);
  assert.deepEqual(Object.keys(given), ["city", "unit"]);
  assert.ok(["Paris", "London"].includes(given.city));
  assert.ok(["celsius", "fahrenheit"].includes(given.unit));
}

export async function check_chat_and_stream() {
  const answer = await client.chat.completions.create(ask);
  const { content } = answer.choices[0].message;
  assert.equal(content, await plainAnswer());
  assert.ok(answer._request_id && answer.usage.total_tokens > 0);
  const stream = await client.chat.completions.create({
    ...ask,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, content);
  assert.deepEqual(usage.total_tokens, answer.usage.total_tokens);
}

export async function check_stream_helper() {
  const stream = client.chat.completions.stream(ask);
  let text = "";
  stream.on("content", (piece) => (text += piece));
  const final = await stream.finalChatCompletion();
  assert.equal(text, final.choices[0].message.content);
}

export async function check_raw_response() {
  const response = await client.chat.completions.create(ask).asResponse();
  assert.equal(response.status, 200);
  assert.ok(response.headers.get("x-request-id"));
  await response.json();
}

export async function check_tools() {
  const answer = await client.chat.completions.create(forced);
  const [call] = answer.choices[0].message.tool_calls;
  assert.equal(call.function.name, "get_weather");
  assertWeather(call.function.arguments);
}

export async function check_streamed_tools() {
  const stream = await client.chat.completions.create({ ...forced, stream: true });
  const pieces = [];
  let reason = null;
  for await (const chunk of stream) {
    pieces.push(...(chunk.choices[0].delta.tool_calls ?? []));
    reason = chunk.choices[0].finish_reason ?? reason;
  }
  assert.equal(reason, "tool_calls");
  assert.equal(pieces[0].function.name, "get_weather");
  assertWeather(pieces.map((piece) => piece.function.arguments ?? "").join(""));
}

export async function check_stream_helper_with_tools() {
  const stream = client.chat.completions.stream(forced);
  const done = [];
  stream.on("tool_calls.function.arguments.done", (event) => done.push(event.arguments));
  const final = await stream.finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls;
  assertWeather(call.function.arguments);
  assert.deepEqual(done, [call.function.arguments]);
}

export async function check_run_tools() {
  // It calls the function and goes on by itself until there is a text.
  let calls = 0;
  const runner = client.chat.completions.runTools(
    {
      ...forced,
      max_tokens: 400,
      tool_choice: { type: "function", function: { name: "get_weather" } },
      tools: [
        {
          type: "function",
          function: {
            name: "get_weather",
            parameters: schema,
            parse: JSON.parse,
            function: () => {
              calls += 1;
              return "21 degrees";
            },
          },
        },
      ],
    },
    { maxChatCompletions: 2 },
  );
  await runner.done().catch(() => {});
  assert.equal(calls, 1);
}

export async function check_json_schema() {
  const format = { type: "json_schema", json_schema: { name: "weather", strict: true, schema } };
  const answer = await client.chat.completions.parse({
    ...forced,
    tools: undefined,
    tool_choice: undefined,
    response_format: format,
  });
  assert.equal(answer.choices[0].finish_reason, "stop");
  assertWeather(answer.choices[0].message.content);
}

export async function check_completions_and_logprobs() {
  const answer = await client.completions.create({
    model,
    prompt: "The capital of France is",
    temperature: 0,
    max_tokens: 4,
    logprobs: 2,
  });
  const [choice] = answer.choices;
  assert.equal(choice.logprobs.tokens.join(""), choice.text);
  const chat = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2 });
  assert.equal(chat.choices[0].logprobs.content[0].top_logprobs.length, 2);
}

export async function check_embeddings() {
  const input = ["Paris", "London"];
  const floats = await client.embeddings.create({ model, input, encoding_format: "float" });
  // The client itself asks for base64 and decodes it.
  const decoded = await client.embeddings.create({ model, input });
  assert.equal(floats.data.length, 2);
  for (const [i, entry] of floats.data.entries()) {
    assert.equal(entry.embedding.length, decoded.data[i].embedding.length);
    for (const [j, value] of entry.embedding.entries()) {
      assert.ok(Math.abs(value - decoded.data[i].embedding[j]) < 1e-6);
    }
  }
}

export async function check_models() {
  const ids = [];
  for await (const entry of client.models.list()) ids.push(entry.id);
  assert.deepEqual(ids, [model]);
  assert.equal((await client.models.retrieve(model)).id, model);
}

export async function check_errors() {
  for (const stream of [false, true]) {
    await assert.rejects(client.chat.completions.create({ ...ask, temperature: 7, stream }), {
      constructor: OpenAI.BadRequestError,
      status: 400,
      code: "invalid_value",
      param: "temperature",
      type: "invalid_request_error",
    });
    await assert.rejects(client.chat.completions.create({ ...ask, model: "gpt-4o", stream }), {
      constructor: OpenAI.NotFoundError,
      code: "model_not_found",
    });
  }
}
